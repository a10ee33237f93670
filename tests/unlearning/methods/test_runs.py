"""Methods as runs: stopped and taken up again, on eight devices, and compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.training import Checkpoints, fsdp, init_state, make_mesh, shard
from clujax.unlearning import (
    bad_teacher,
    finetune,
    influence,
    muso,
    npo,
    random_label,
    rum,
    salun,
    scrub,
    scrub_r,
    unlearn,
    unsir,
)

KEY = jax.random.key(4)
QUICK = {"epochs": 1, "batch_size": 32}


class Stop(Exception):
    """Stands for a kill."""


def stopping(method, at):
    """The method, with a run that dies when it asks for the work of iteration `at`."""

    def prepare(request, key):
        plan = method.prepare(request, key)

        def work(s):
            if s == at:
                raise Stop
            return plan.work(s)

        return plan._replace(work=work)

    return method._replace(prepare=prepare)


STATEFUL = {
    "scrub_r": lambda: scrub_r(epochs=3, forget_epochs=2, batch_size=32, learning_rate=0.5),
    "rum": lambda: rum(parts=(finetune(**QUICK), salun(**QUICK))),
    "muso": lambda: muso(epochs=2, batch_size=40),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stopped_run_ends_with_the_same_bits(stateless, validation, tmp_path, name):
    """Stopped twice, once in the first half and once just before the end, between checkpoints."""
    method = STATEFUL[name]()
    initial, _ = stateless.classifier.init(jax.random.key(0), jnp.asarray(stateless.remain["x"][:1]))
    request = stateless._replace(validation=validation, initial=initial)
    calm = unlearn(method, request, key=KEY)
    count = method.prepare(request, jax.random.split(KEY)[0]).num_steps
    for at in (count // 3, count - 1):
        with Checkpoints(tmp_path / "run") as checkpoints, pytest.raises(Stop):
            unlearn(stopping(method, at), request, key=KEY, checkpoints=checkpoints, checkpoint_every=4)
        assert 0 < checkpoints.steps()[-1] <= at
    with Checkpoints(tmp_path / "run") as checkpoints:
        outcome = unlearn(method, request, key=KEY, checkpoints=checkpoints, checkpoint_every=4, log_every=1)
    assert len(outcome.records) < count
    jax.tree.map(np.testing.assert_array_equal, outcome.params, calm.params)


SHARED = {
    "npo": lambda: npo(**QUICK),
    "random_label": lambda: random_label(order="forget_first", labels="any", redraw=True, **QUICK),
    "scrub": lambda: scrub(epochs=2, forget_epochs=1, batch_size=32),
    "rum": lambda: rum(parts=(bad_teacher(**QUICK), None)),
}


@pytest.mark.parametrize("name", SHARED)
def test_eight_devices_take_the_trajectory_of_one(batch_norm, same, name):
    """Parameters split over four devices and rows over two; teachers are split like the parameters."""
    method = SHARED[name]()
    alone = unlearn(method, batch_norm, key=KEY)
    mesh, rules = make_mesh((("data", 2), ("fsdp", 4))), ((".*", fsdp(min_size=1)),)
    on_mesh = batch_norm._replace(params=shard(batch_norm.params, mesh, rules), mesh=mesh, rules=rules)
    together = unlearn(method, on_mesh, key=KEY)
    same(alone.params, together.params, 1e-5)
    same(alone.stats, together.stats, 1e-5)
    kernel = together.params["convs_0"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_an_edit_leaves_parameters_where_they_were(stateless, same):
    mesh, rules = make_mesh((("data", 2), ("fsdp", 4))), ((".*", fsdp(min_size=1)),)
    params = shard(stateless.params, mesh, rules)
    on_mesh = stateless._replace(params=params, mesh=mesh, rules=rules)
    together = unlearn(influence(rows=8), on_mesh, key=KEY)
    same(unlearn(influence(rows=8), stateless, key=KEY).params, together.params, 1e-5)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, together.params, params)))


COMPILED = {
    "npo": lambda: npo(**QUICK),
    "scrub": lambda: scrub(epochs=2, forget_epochs=1, batch_size=32),
    "random_label": lambda: random_label(order="forget_first", redraw=True, **QUICK),
    "bad_teacher": lambda: bad_teacher(**QUICK),
    "unsir": lambda: unsir(noise_images=4, noise_steps=1, copies=4, per_class=8, batch_size=16, force=True),
}


@pytest.mark.parametrize("name", COMPILED)
def test_hot_steps_compile_once(stateless, name):
    plan = COMPILED[name]().prepare(stateless, KEY)
    state = init_state(plan.params, plan.stats, plan.tx, KEY)
    for s in range(plan.num_steps):
        for step, batch in plan.work(s):
            state, _ = plan.steps[step](state, batch)
    counts = {step: run.jitted._cache_size() for step, run in plan.steps.items() if hasattr(run, "jitted")}
    assert set(counts.values()) == {1}, counts
