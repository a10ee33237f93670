"""The loop drives any step, resumes to the bit, and stops at the first step that is not finite."""

import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from rich.progress import Progress

from clujax.errors import ConfigError
from clujax.training import Checkpoints, NonFiniteError, Writer, fit, init_state, make_block_step, make_train_step

TX = optax.adam(0.05)


def loss_fn(params, stats, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["w1"]) * jax.random.bernoulli(key, 0.8, (8,))
    return jnp.mean((hidden @ params["w2"] - batch["y"]) ** 2), (stats, {"scale": jnp.abs(params["w2"]).max()})


def batch_at(step):
    rng = np.random.default_rng(step)
    return {"x": rng.normal(size=(4, 3)).astype(np.float32), "y": rng.normal(size=4).astype(np.float32)}


def fresh():
    keys = jax.random.split(jax.random.key(0))
    params = {"w1": jax.random.normal(keys[0], (3, 8)), "w2": jax.random.normal(keys[1], (8,))}
    return init_state(params, {}, TX, jax.random.key(1))


@pytest.fixture(scope="module")
def step():
    return make_train_step(loss_fn, TX)


@pytest.fixture(scope="module")
def undisturbed(step):
    return fit(step, fresh(), batch_at, 23, log_every=5)


def assert_same(a, b):
    plain = [jax.device_get(s._replace(key=jax.random.key_data(s.key))) for s in (a, b)]
    chex.assert_trees_all_equal(*plain)


def test_the_loop_is_the_written_out_loop(step, undisturbed):
    state, expected = fresh(), []
    for i in range(23):
        state, metrics = step(state, batch_at(i))
        expected.append(metrics)
    assert_same(undisturbed[0], state)
    records = undisturbed[1].records
    assert [r["step"] for r in records] == [0, 5, 10, 15, 20, 22]
    for record in records:
        metrics = jax.device_get(expected[record["step"]])
        assert {k: v for k, v in record.items() if k != "step"} == {k: v.item() for k, v in metrics.items()}
    json.dumps(records)


def test_stopped_and_taken_up_again_to_the_bit(step, undisturbed, tmp_path):
    class Stopped(Exception):
        pass

    def stop_at(last):
        def feed(i):
            if i == last:
                raise Stopped
            return batch_at(i)

        return feed

    for last in (3, 11, 19, None):
        with Checkpoints(tmp_path / "c") as checkpoints, Writer(tmp_path, tensorboard=False) as writer:
            options = dict(checkpoints=checkpoints, checkpoint_every=4, writer=writer, log_every=5)
            if last is None:
                state, history = fit(step, fresh(), batch_at, 23, **options)
            else:
                with pytest.raises(Stopped):
                    fit(step, fresh(), stop_at(last), 23, **options)
    assert history.start == 16
    assert_same(state, undisturbed[0])
    assert history.records == undisturbed[1].records  # no step twice, none missing
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()] == history.records

    def none(i):
        raise AssertionError("a complete run takes no step")

    with Checkpoints(tmp_path / "c") as checkpoints:
        again, _ = fit(step, fresh(), none, 23, checkpoints=checkpoints)
    assert_same(again, state)


def test_any_host_function_is_a_step(tmp_path):
    """Several compiled pieces, a plain dict as state, metrics of NumPy and Python."""
    double, add = jax.jit(lambda x: 2 * x), jax.jit(lambda x, y: x + y)

    def step_fn(state, batch):
        value = add(double(state["value"]), batch)
        return {"value": value, "count": state["count"] + 1}, {"loss": float(value), "by_class": np.arange(2) + batch}

    start = {"value": jnp.float32(1), "count": 0}
    with Checkpoints(tmp_path) as checkpoints:
        fit(step_fn, start, lambda i: i, 4, checkpoints=checkpoints)
        state, history = fit(step_fn, start, lambda i: i, 6, checkpoints=checkpoints, log_every=1)
    value = 1.0
    for i in range(6):
        value = 2 * value + i
    assert (float(state["value"]), int(state["count"])) == (value, 6)
    assert [(r["step"], r["by_class"]) for r in history.records] == [(4, [4, 5]), (5, [5, 6])]


def test_blocks(undisturbed, tmp_path):
    block_step = make_block_step(loss_fn, TX)
    with Checkpoints(tmp_path) as checkpoints:
        state, history = fit(
            block_step, fresh(), batch_at, 23, block=6, log_every=5, checkpoints=checkpoints, checkpoint_every=8
        )
        assert checkpoints.steps() == [18, 23]
    chex.assert_trees_all_close(state.params, undisturbed[0].params, rtol=1e-5)
    assert [r["step"] for r in history.records] == [0, 5, 10, 15, 20, 22]
    np.testing.assert_allclose(
        [r["loss"] for r in history.records], [r["loss"] for r in undisturbed[1].records], rtol=1e-5
    )


def poisoned(bad):
    def feed(i):
        batch = batch_at(i)
        return batch | {"y": batch["y"] * np.nan} if i >= bad else batch

    return feed


@pytest.mark.parametrize("bad", [0, 13])
def test_non_finite_step_is_named_and_the_state_before_it_saved(step, tmp_path, bad):
    good, _ = fit(step, fresh(), batch_at, bad)
    for _attempt in range(2):  # taken up again, it stops at the same step
        with Checkpoints(tmp_path / "c") as checkpoints, Writer(tmp_path, tensorboard=False) as writer:
            says = rf"step {bad} gave .*loss = nan.*before step {bad}, is saved"
            # No logged step lies between the bad one and the next checkpoint, which must not hold what followed it.
            options = dict(checkpoints=checkpoints, checkpoint_every=7, writer=writer, log_every=20)
            with pytest.raises(NonFiniteError, match=says) as caught:
                fit(step, fresh(), poisoned(bad), 40, **options)
            assert caught.value.step == bad
            saved, state, _ = checkpoints.restore(fresh())
            assert saved == bad
            assert_same(state, good)
            assert all(np.isfinite(r["loss"]) for r in writer.records())


def test_non_finite_in_a_block(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(NonFiniteError, match=r"step 13 gave .*before step 12, is saved"):
            fit(make_block_step(loss_fn, TX), fresh(), poisoned(13), 24, block=6, checkpoints=checkpoints)
        assert checkpoints.steps()[-1] == 12


def test_an_update_that_overflows_is_found_and_not_saved(tmp_path):
    """Loss and gradient of step 5 are finite, the parameters after it are not."""

    def step_fn(state, batch):
        return {"w": state["w"] * jnp.where(batch == 5, 1e30, 1.0)}, {"loss": jnp.sum(state["w"]) * 0}

    start = {"w": jnp.full(3, 1e20)}
    for every, total in ((6, 20), (4, 20), (None, 6)):  # seen when it would be saved, later by the loss, at the end
        with Checkpoints(tmp_path / f"{every}") as checkpoints:
            with pytest.raises(NonFiniteError, match=r"after step 5 are not finite.*before step 5, is saved") as caught:
                fit(step_fn, start, lambda i: i, total, checkpoints=checkpoints, checkpoint_every=every, log_every=7)
            assert caught.value.step == 5
            step, state, _ = checkpoints.restore(start)
            assert step == 5
            chex.assert_trees_all_equal(state, start)


def test_non_finite_without_checkpoints(step):
    with pytest.raises(FloatingPointError, match=r"step 3 gave .*no state was saved"):
        fit(step, fresh(), poisoned(3), 20)


def test_compile_and_run_time_are_told_apart(tmp_path):
    # The second piece compiles only at step 6: that too is compile time.
    early, late = jax.jit(lambda x: jnp.sin(x) @ x), jax.jit(lambda x: jnp.cos(x) @ x @ x)
    calls = []

    def step_fn(state, batch):
        calls.append(batch)
        return (early if batch < 6 else late)(state) / 100, {}

    with Checkpoints(tmp_path) as checkpoints:
        state = jnp.ones((16, 16))
        _, first = fit(step_fn, state, lambda i: i, 4, checkpoints=checkpoints)
        _, second = fit(step_fn, state, lambda i: i, 6, checkpoints=checkpoints)
        _, third = fit(step_fn, state, lambda i: i, 8, checkpoints=checkpoints)
    assert calls == list(range(8))
    assert 0 < first.compile_seconds <= second.compile_seconds < third.compile_seconds
    assert 0 < first.run_seconds < second.run_seconds < third.run_seconds


def test_progress_is_a_value(step):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(console=console) as bar:
        fit(step, fresh(), batch_at, 3, progress=bar, description="pretrain")
        fit(step, fresh(), batch_at, 2, progress=bar, description="adapt")
        assert [(t.description, t.completed, t.total) for t in bar.tasks] == [("pretrain", 3, 3), ("adapt", 2, 2)]
        assert bar.tasks[0].fields["note"].startswith("loss ")


@pytest.mark.parametrize(
    ("options", "says"),
    [({"log_every": 0}, "log_every"), ({"block": 0}, "block"), ({"checkpoint_every": -1}, "checkpoint_every")],
)
def test_bad_numbers_are_named(step, options, says):
    with pytest.raises(ConfigError, match=f"{says} must be a whole number of at least 1"):
        fit(step, fresh(), batch_at, 3, **options)
