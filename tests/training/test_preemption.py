"""A run that is told to go saves its state at the end of the step at hand, says so, and comes back to the bit."""

import os
import signal
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.errors import ConfigError
from clujax.training import Checkpoints, Preempted, fit, init_state, make_block_step, make_train_step, preemption

TX = optax.sgd(0.1, momentum=0.9)


def loss_fn(params, stats, batch, key):
    return jnp.mean((batch @ params["w"] - jax.random.normal(key)) ** 2), (stats, {})


def fresh():
    return init_state({"w": jnp.ones(3)}, {}, TX, jax.random.key(1))


def batch_at(step):
    return np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)


def told_at(step):
    """Batches of a run that gets SIGTERM while it asks for one."""

    def feed(i):
        if i == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    return feed


@pytest.mark.parametrize(("block", "told", "stops"), [(1, 7, 8), (1, 0, 1), (1, 22, 23), (6, 7, 12)])
def test_it_stops_after_the_step_at_hand_and_comes_back_to_the_bit(tmp_path, block, told, stops):
    step = make_block_step(loss_fn, TX) if block > 1 else make_train_step(loss_fn, TX)
    options = dict(block=block, checkpoint_every=5, log_every=9)
    undisturbed, calm = fit(step, fresh(), batch_at, 23, **options)
    with Checkpoints(tmp_path) as checkpoints:
        says = rf"before step {stops}; its state was whole in {tmp_path} .* s after the notice, .*The same command"
        with pytest.raises(Preempted, match=says) as stop:
            fit(step, fresh(), told_at(told), 23, checkpoints=checkpoints, **options)
        assert (stop.value.step, stop.value.code, stop.value.directory) == (stops, 143, checkpoints.directory)
        assert checkpoints.steps()[-1] == stops
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        state, history = fit(step, fresh(), batch_at, 23, checkpoints=checkpoints, **options)
        assert history.start == stops
    plain = [s._replace(key=jax.random.key_data(s.key)) for s in (state, undisturbed)]
    chex.assert_trees_all_equal(*plain)
    assert history.records == [r for r in calm.records if r["step"] >= stops]


def test_a_second_signal_ends_the_process():
    with preemption.listening() as notice:
        assert not notice.came()
        signal.raise_signal(signal.SIGTERM)
        assert notice.came()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_loop_in_a_loop_hears_the_same_notice():
    with preemption.listening() as outer:
        with preemption.listening() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.came()
        assert outer.came()


def test_who_handles_the_signal_goes_on_doing_so(tmp_path):
    came = []
    former = signal.signal(signal.SIGTERM, lambda *about: came.append(about))
    try:
        with Checkpoints(tmp_path) as checkpoints:
            fit(make_train_step(loss_fn, TX), fresh(), told_at(3), 6, checkpoints=checkpoints)
            assert checkpoints.steps() == [0, 6]
        assert len(came) == 1
    finally:
        signal.signal(signal.SIGTERM, former)


def test_without_checkpoints_or_outside_the_main_thread_the_signal_is_left_alone(tmp_path):
    found = []

    def look(i):
        found.append(signal.getsignal(signal.SIGTERM))
        return batch_at(i)

    def run():
        with Checkpoints(tmp_path) as checkpoints:
            fit(make_train_step(loss_fn, TX), fresh(), look, 2, checkpoints=checkpoints)

    fit(make_train_step(loss_fn, TX), fresh(), look, 2)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL] * 4


def test_a_save_beyond_the_grace_is_warned_of_once_and_named(tmp_path):
    with Checkpoints(tmp_path, background=False) as checkpoints:
        options = dict(checkpoints=checkpoints, checkpoint_every=2, grace_seconds=1e-6)
        with (
            pytest.warns(UserWarning, match=r"writing a checkpoint took .*longer than grace_seconds \(1e-06\)") as seen,
            pytest.raises(Preempted, match="longer than the 1e-06 s of grace_seconds"),
        ):
            fit(make_train_step(loss_fn, TX), fresh(), told_at(9), 20, **options)
        assert len(seen) == 1
    with pytest.raises(ConfigError, match="grace_seconds must be above 0, got 0"):
        fit(make_train_step(loss_fn, TX), fresh(), batch_at, 20, grace_seconds=0)


@pytest.mark.parametrize(("grace", "most"), [(0.4, 3), (1e4, 33)])
def test_slow_steps_are_not_queued_beyond_a_quarter_of_the_grace(tmp_path, grace, most):
    done, queued = [], []

    def slow(value):
        time.sleep(0.05)  # so that a tenth of a second holds two at most
        done.append(value)
        return value

    @jax.jit
    def step(state, batch):
        return jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), state + batch), {}

    def feed(i):
        queued.append(i - len(done))
        return 1.0

    with Checkpoints(tmp_path) as checkpoints:
        state, _ = fit(step, jnp.float32(0), feed, 40, checkpoints=checkpoints, log_every=1000, grace_seconds=grace)
    assert float(state) == 40
    assert max(queued[5:]) <= most
