"""Each method's update rule against a few lines of its own, its limits, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.geometry import distance, top_fraction_mask
from clujax.models import from_apply
from clujax.training import fsdp, make_mesh, shard
from clujax.unlearning import (
    Request,
    adaptive_ascent,
    bad_teacher,
    euclidean,
    evaluate,
    finetune,
    fixed_fisher,
    gradient_ascent,
    predictions,
    random_label,
    random_relabel,
    remain_newton,
    retrain,
    salun,
    scrub,
    sfron,
    unlearn,
    wrong_labels,
)
from clujax.unlearning.methods.salun import summed_gradient

QUICK = {
    "finetune": lambda: finetune(epochs=1, batch_size=32),
    "gradient_ascent": lambda: gradient_ascent(epochs=1, batch_size=32),
    "random_label": lambda: random_label(epochs=1, batch_size=32),
    "salun": lambda: salun(epochs=1, batch_size=32, fraction=0.3),
    "scrub": lambda: scrub(epochs=2, forget_epochs=1, batch_size=32),
    "bad_teacher": lambda: bad_teacher(epochs=1, batch_size=32),
    "retrain": lambda: retrain(epochs=1, batch_size=32),
    "sfron": lambda: sfron(steps=6, repair=3, batch_size=32),
    "euclidean": lambda: euclidean(steps=4, batch_size=32),
    "fixed_fisher": lambda: fixed_fisher(steps=4, batch_size=32),
    "remain_newton": lambda: remain_newton(steps=4, batch_size=32),
}


def cross_entropy(request, params, batch):
    logits, _ = request.classifier.apply(params, request.stats, batch["x"], train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def same(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


@pytest.mark.parametrize("name", QUICK)
def test_every_method_moves_the_weights_and_leaves_the_request(stateless, name):
    before = jax.tree.map(np.array, stateless.params)
    outcome = unlearn(QUICK[name](), stateless, key=jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, stateless.params, before)
    assert 0 < float(distance(outcome.params, stateless.params)) < 100
    assert outcome.settings == QUICK[name]().settings
    again = unlearn(QUICK[name](), stateless, key=jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, again.params, outcome.params)


def test_sfron_without_mask_and_weights_alternates_ascent_and_finetuning(stateless):
    """λ = 0, no mask, T = 1: the same numbers as optax steps of −CE(forget) and CE(remain) in turn."""
    n = 7
    method = sfron(
        steps=n,
        repair=1,
        ascent=2.0,
        objective=adaptive_ascent(exponent=0.0),
        threshold=None,
        max_norm=None,
        batch_size=32,
    )
    key = jax.random.key(5)
    outcome = unlearn(method, stateless, key=key)
    plan = method.prepare(stateless, jax.random.split(key)[0])
    params, velocity = stateless.params, jax.tree.map(jnp.zeros_like, stateless.params)
    for s in range(n):
        wave = (1 + np.cos(np.pi * s / n)) / 2
        for name, batch in plan.work(s):
            scale = -2.0 * wave if name == "forget" else 1.0
            gradient = jax.grad(lambda p: scale * jnp.mean(cross_entropy(stateless, p, batch)))(params)
            gradient = jax.tree.map(lambda g, p: g + 5e-4 * p, gradient, params)
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
            params = jax.tree.map(lambda p, v: p - 0.01 * wave * v, params, velocity)
    same(outcome.params, params, 2e-6)


@pytest.mark.parametrize("steps", [6, 7])
def test_whole_cycles_take_the_same_trajectory(stateless, steps):
    """Compiled cycles, the last one partial when repair does not divide steps."""
    options = {"steps": steps, "repair": 3, "batch_size": 32, "slow_step": 0.5, "slow_per": "cycle"}
    one_by_one = unlearn(sfron(**options, whole_cycles=False), stateless, key=jax.random.key(6), log_every=1)
    compiled = unlearn(sfron(**options, whole_cycles=True), stateless, key=jax.random.key(6), log_every=1)
    same(one_by_one.params, compiled.params, 1e-6)
    assert len(one_by_one.records) == steps
    assert len(compiled.records) == -(-steps // 3)
    assert "forget/effective_sample_size" in compiled.records[0]


def test_a_loss_of_zero_disables_floor_0_and_says_so(stateless):
    """The published coefficients, float32 losses of exactly 0: nothing is forgotten, and a warning names the cure."""
    sure = stateless._replace(params=jax.tree.map(lambda p: p * 2, stateless.params))
    losses = cross_entropy(sure, sure.params, sure.forget)
    assert float(jnp.min(losses)) == 0 < float(jnp.max(losses))
    results = {}
    for floor in (0.0, 1e-3):
        method = sfron(steps=4, repair=4, objective=adaptive_ascent(0.5, floor), threshold=None, batch_size=32)
        results[floor] = unlearn(method, sure, key=jax.random.key(7), log_every=1)
    (warning,) = results[0.0].warnings
    assert "100 % of the weight" in warning
    assert "floor=1e-3" in warning
    assert not any("exactly 0" in text for text in results[1e-3].warnings)
    assert results[0.0].records[0]["forget/grad_norm"] < 1e-3 * results[1e-3].records[0]["forget/grad_norm"]


def test_forgetting_lowers_membership_evidence(stateless):
    """A real forgetting: the loss on forget rows rises, the remaining rows stay."""
    outcome = unlearn(
        sfron(steps=40, repair=4, ascent=100.0, learning_rate=0.05, batch_size=32), stateless, key=jax.random.key(8)
    )
    before, after = (
        {
            name: float(jnp.mean(cross_entropy(stateless, params, getattr(stateless, name))))
            for name in ("forget", "remain")
        }
        for params in (stateless.params, outcome.params)
    )
    assert after["forget"] > 10 * before["forget"]
    assert after["remain"] < 5 * before["remain"]


def test_salun_keeps_masked_weights_to_the_bit(stateless):
    outcome = unlearn(salun(epochs=1, batch_size=32, fraction=0.3), stateless, key=jax.random.key(9))
    mask = top_fraction_mask(jax.tree.map(jnp.abs, summed_gradient(stateless, 32)), 0.3)
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), outcome.params, stateless.params)
    for kept, changed in zip(jax.tree.leaves(mask), jax.tree.leaves(moved), strict=True):
        assert not np.any(changed & ~np.asarray(kept))
    assert sum(np.sum(changed) for changed in jax.tree.leaves(moved)) > 0.9 * 0.3 * sum(
        changed.size for changed in jax.tree.leaves(moved)
    )


def test_summed_gradient_counts_batches_not_rows(stateless):
    expected = jax.tree.map(jnp.zeros_like, stateless.params)
    for part in (slice(0, 32), slice(32, 48)):
        batch = {"x": stateless.forget["x"][part], "y": stateless.forget["y"][part]}
        gradient = jax.grad(lambda p: jnp.mean(cross_entropy(stateless, p, batch)))(stateless.params)
        expected = jax.tree.map(jnp.add, expected, gradient)
    same(summed_gradient(stateless, 32), expected, 1e-6)


def test_euclidean_without_ascent_is_finetuning(stateless):
    """α = 0: one step an iteration on the remaining rows; compare with SGD on the very batches of the plan."""
    method = euclidean(steps=5, ascent=0.0, threshold=None, batch_size=32)
    key = jax.random.key(10)
    outcome = unlearn(method, stateless, key=key)
    plan = method.prepare(stateless, jax.random.split(key)[0])
    params, state = stateless.params, plan.tx.init(stateless.params)
    for s in range(5):
        ((_, batch),) = plan.work(s)
        gradient = jax.grad(lambda p: jnp.mean(cross_entropy(stateless, p, batch["remain"])))(params)
        updates, state = plan.tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    same(outcome.params, params, 1e-6)


def test_remain_newton_with_huge_damping_is_the_euclidean_step(stateless):
    options = {"steps": 3, "ascent": 1.0, "threshold": None, "batch_size": 32, "remain_weight": 0.0}
    newton = unlearn(remain_newton(damping=1e6, **options), stateless, key=jax.random.key(11))
    plain = unlearn(euclidean(**options), stateless, key=jax.random.key(11))
    same(newton.params, plain.params, 1e-5)


def test_remain_newton_disturbs_the_remaining_rows_less(stateless):
    """For an equal rise of the forget loss, the preconditioned step costs the remaining rows less than the plain one."""
    options = {"steps": 10, "threshold": None, "batch_size": 48, "remain_weight": 0.0, "weight_decay": 0.0}

    def cost_at_equal_forgetting(method):
        rates = []
        for rate in (1.0, 2.0, 5.0, 10.0):
            outcome = unlearn(method(learning_rate=rate, **options), stateless, key=jax.random.key(12))
            loss = {
                name: float(jnp.mean(cross_entropy(stateless, outcome.params, getattr(stateless, name))))
                for name in ("forget", "remain")
            }
            rates.append((loss["forget"], loss["remain"]))
        forget, remain = np.array(sorted(rates)).T
        return np.interp(0.3, forget, remain)

    assert cost_at_equal_forgetting(lambda **o: remain_newton(damping=0.05, **o)) < cost_at_equal_forgetting(euclidean)


def test_batch_norm_averages_follow_the_phases(batch_norm):
    """Gradient ascent is in eval mode; SFR-on's forget pass updates averages only when asked."""
    frozen = unlearn(gradient_ascent(epochs=1, batch_size=32), batch_norm, key=jax.random.key(13))
    jax.tree.map(np.testing.assert_array_equal, frozen.stats, batch_norm.stats)
    stats = {}
    for train in (True, False):
        plan = sfron(steps=2, batch_size=32, forget_train=train).prepare(batch_norm, jax.random.key(14))
        from clujax.training import init_state

        state = init_state(plan.params, plan.stats, plan.tx, jax.random.key(0))
        state, _ = plan.steps["forget"](state, plan.work(0)[0][1])
        stats[train] = float(distance(state.stats, batch_norm.stats))
    assert stats[False] == 0 < stats[True]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 12))
def test_wrong_labels_are_wrong_and_uniform_in_range(seed, classes):
    labels = jnp.arange(64) % classes
    drawn = wrong_labels(jax.random.key(seed), labels, classes)
    assert not np.any(drawn == labels)
    assert drawn.min() >= 0
    assert drawn.max() < classes


def test_online_relabelling_and_user_losses_run(stateless):
    """Forget objectives are functions: the online random label, and a user's own per-row loss."""
    for objective in (random_relabel(4), adaptive_ascent(losses=lambda z, y, key: jnp.maximum(1 - z[:, 0], 0.0))):
        outcome = unlearn(sfron(steps=3, batch_size=32, objective=objective), stateless, key=jax.random.key(15))
        assert np.isfinite(float(distance(outcome.params, stateless.params)))


def test_retrain_never_sees_the_forget_rows(stateless):
    """Other forget rows, same retrained network; and it does not start from the original."""
    poisoned = stateless._replace(
        forget=stateless.forget | {"x": stateless.forget["x"] * 0 + 1e6},
        params=jax.tree.map(lambda p: p + 1, stateless.params),
    )
    a, b = (unlearn(QUICK["retrain"](), r, key=jax.random.key(16)) for r in (stateless, poisoned))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_any_apply_function_serves():
    """The notebook's case: a plain function, plain arrays, no library model."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (64, 5))
    y = (x[:, 0] > 0).astype(jnp.int32)
    part = lambda rows: {"x": x[rows], "y": y[rows]}
    request = Request(
        from_apply(lambda params, inputs: inputs @ params["w"]),
        {"w": jnp.zeros((5, 2)).at[0].set(jnp.array([-1.0, 1.0]))},
        {},
        part(slice(0, 8)),
        part(slice(8, None)),
        2,
    )
    outcome = unlearn(sfron(steps=5, batch_size=16), request, key=key)
    report = evaluate(
        predictions(
            request.classifier,
            outcome.params,
            outcome.stats,
            {"forget": request.forget, "remain": request.remain, "unseen": request.remain},
        )
    )
    assert set(report) >= {"FA", "RA", "TA", "MIA", "AUC"}


@pytest.mark.parametrize("axes", [(("data", 8),), (("data", 2), ("fsdp", 4))])
def test_eight_devices_take_the_trajectory_of_one(batch_norm, axes):
    """SFR-on on a mesh, adaptive weights and BatchNorm over the global batch; FSDP really shards the parameters."""
    method = sfron(steps=6, repair=3, batch_size=32)
    alone = unlearn(method, batch_norm, key=jax.random.key(17))
    mesh, rules = make_mesh(axes), ((".*", fsdp(min_size=1)),) if len(axes) == 2 else ()
    on_mesh = batch_norm._replace(params=shard(batch_norm.params, mesh, rules), mesh=mesh, rules=rules)
    together = unlearn(method, on_mesh, key=jax.random.key(17))
    same(alone.params, together.params, 1e-5)
    same(alone.stats, together.stats, 1e-5)
    if rules:
        kernel = together.params["convs_0"]["kernel"]
        assert kernel.sharding.spec != jax.sharding.PartitionSpec()
        assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_hot_steps_compile_once(stateless):
    """Twelve iterations, two programs: one a phase."""
    plan = sfron(steps=12, repair=3, batch_size=32).prepare(stateless, jax.random.key(18))
    from clujax.training import init_state

    state = init_state(plan.params, plan.stats, plan.tx, jax.random.key(0))
    for s in range(12):
        for name, batch in plan.work(s):
            state, _ = plan.steps[name](state, batch)
    assert {name: step.func.jitted._cache_size() for name, step in plan.steps.items()} == {"forget": 1, "remain": 1}
