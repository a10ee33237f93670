"""AdaLoRA: the parametrisation, its penalty, scores by hand, the budget over all kernels, and its place in a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax import lora
from clujax.geometry import Layout

KEY = jax.random.key(0)
BASE = {
    "first": {"kernel": jax.random.normal(KEY, (6, 5))},
    "stack": {"kernel": jax.random.normal(jax.random.key(1), (3, 5, 4))},
}
STACK = Layout((1,), batch=(0,))
SPEC = lora.build_spec(BASE, [lora.LoraRule("first", 4), lora.LoraRule("stack", 2, layout=STACK)])
COMPONENTS = 4 + 3 * 2


def moved(std=0.5):
    """Something trained, with no component like another."""
    trained = lora.init_singular(KEY, SPEC)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(std * draw.normal(size=x.shape), x.dtype), trained)


def opened(trained):
    return sum(int((parts["s"] != 0).sum()) for parts in trained.values())


def loss_fn(params, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"])
    for i in range(3):
        hidden = jnp.pad(jnp.tanh(hidden[:, :5] @ params["stack"]["kernel"][i]), ((0, 0), (0, 1)))
    return jnp.mean((hidden[:, :4] - batch["y"]) ** 2), {}


BATCH = {"x": jax.random.normal(jax.random.key(2), (8, 6)), "y": jax.random.normal(jax.random.key(3), (8, 4))}


def test_the_network_begins_as_the_base_and_factors_are_ordinary_adapters():
    trained = lora.init_singular(KEY, SPEC)
    merged = lora.merge(BASE, lora.factors(trained), SPEC)
    jax.tree.map(np.testing.assert_array_equal, merged, BASE)
    trained = moved()
    grown = lora.delta(lora.factors(trained), SPEC)
    p, s, q = (np.asarray(trained["stack/kernel"][part]) for part in "asb")
    expected = SPEC["stack/kernel"].scale * np.einsum("kir,kr,kro->kio", p, s, q)
    np.testing.assert_allclose(grown["stack/kernel"], expected, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_zero_for_orthonormal_factors_and_by_hand_else():
    draw = np.random.default_rng(1)
    basis = lambda *shape: np.linalg.qr(draw.normal(size=shape))[0]
    one = {"first/kernel": {"a": jnp.asarray(basis(6, 4)), "s": jnp.ones(4), "b": jnp.asarray(basis(5, 4).T)}}
    np.testing.assert_allclose(lora.non_orthogonality(one), 0, atol=1e-9)
    trained = moved()
    expected = 0.0
    for name, parts in trained.items():
        p, q = np.asarray(parts["a"], np.float64), np.asarray(parts["b"], np.float64)
        for i in range(3) if name == "stack/kernel" else (slice(None),):
            expected += np.sum((p[i].T @ p[i] - np.eye(p.shape[-1])) ** 2)
            expected += np.sum((q[i] @ q[i].T - np.eye(p.shape[-1])) ** 2)
    np.testing.assert_allclose(lora.non_orthogonality(trained), expected, rtol=1e-4)


def test_a_budget_for_all_is_the_inner_optimizer_with_the_penalty():
    trained, slope = moved(), moved(0.1)
    tx = lora.allocate_rank(optax.sgd(0.1), lambda step: COMPONENTS, orthogonality=0.0)
    steps, _ = tx.update(slope, tx.init(trained), trained)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -0.1 * b, atol=1e-6), steps, slope)
    tx = lora.allocate_rank(optax.sgd(0.1), lambda step: COMPONENTS, orthogonality=0.5)
    steps, _ = tx.update(slope, tx.init(trained), trained)
    penalty = jax.grad(lora.non_orthogonality)(trained)
    jax.tree.map(lambda s, g, p: np.testing.assert_allclose(s, -0.1 * (g + 0.5 * p), atol=1e-5), steps, slope, penalty)


def test_what_stays_open_has_the_largest_scores_by_hand():
    """Two steps by hand: I = |w·g|, its running mean, how it varies, their product, summed over a component's parts."""
    trained, tx = moved(), lora.allocate_rank(optax.sgd(0.0), lambda step: 3, smooth=0.7, smooth_uncertainty=0.4)
    state, now = tx.init(trained), trained
    mean = {name: dict.fromkeys("asb", 0.0) for name in trained}
    vary = {name: dict.fromkeys("asb", 0.0) for name in trained}
    for seed in (1, 2):
        slope = jax.tree.map(lambda x, k=seed: jax.random.normal(jax.random.key(k), x.shape), trained)
        scores = []
        for name, parts in now.items():
            each = {}
            for part in "asb":
                here = np.abs(np.asarray(parts[part]) * np.asarray(slope[name][part]))
                mean[name][part] = 0.7 * mean[name][part] + 0.3 * here
                vary[name][part] = 0.4 * vary[name][part] + 0.6 * np.abs(here - mean[name][part])
                each[part] = mean[name][part] * vary[name][part]
            scores.append((each["s"] + each["a"].mean(-2) + each["b"].mean(-1)).ravel())
        steps, state = tx.update(slope, state, now)
        now = optax.apply_updates(now, steps)
    flat = np.concatenate([np.asarray(now[name]["s"]).ravel() for name in now])
    largest = np.argsort(-np.concatenate(scores))[:3]
    assert set(np.flatnonzero(flat)) <= set(largest)
    assert opened(now) == len(set(np.flatnonzero(flat))) > 0
    assert int(state.step) == 2
    for name in trained:
        for part in "asb":
            np.testing.assert_allclose(state.sensitivity[name][part], mean[name][part], rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(state.uncertainty[name][part], vary[name][part], rtol=1e-4, atol=1e-7)


def test_a_closed_component_may_open_again():
    trained, tx = moved(), lora.allocate_rank(optax.sgd(1.0), lambda step: 1 + 9 * (step > 0), orthogonality=0.0)
    state = tx.init(trained)
    slope = jax.tree.map(jnp.ones_like, trained)
    steps, state = tx.update(slope, state, trained)
    now = optax.apply_updates(trained, steps)
    assert opened(now) == 1
    steps, state = tx.update(slope, state, now)
    assert opened(optax.apply_updates(now, steps)) == COMPONENTS


@pytest.mark.parametrize("sigma", [0, 0.2])
def test_in_a_step_the_budget_falls_and_the_loss_too(sigma):
    budget = lora.cubic_budget(COMPONENTS, 4, 5, 30)
    tx = lora.allocate_rank(optax.adam(0.02), budget)
    step = lora.make_step(loss_fn, SPEC, tx, sigma, factors_of=lora.factors)
    state = lora.init_state(lora.init_singular(KEY, SPEC), tx, KEY)
    seen, losses = [], []
    for _ in range(60):
        state, metrics = step(state, BASE, BATCH)
        seen.append(opened(state.adapters))
        losses.append(float(metrics["loss"]))
    assert seen[1] == COMPONENTS
    assert seen[-1] == 4
    assert all(found <= int(budget(t)) for t, found in enumerate(seen))
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    assert step.jitted._cache_size() == 1
    merged = lora.merge(BASE, lora.factors(state.adapters), SPEC)
    ranks = [np.linalg.matrix_rank(np.asarray(merged["first"]["kernel"] - BASE["first"]["kernel"]), tol=1e-4)]
    assert ranks[0] == int((state.adapters["first/kernel"]["s"] != 0).sum())


def test_slips_are_refused():
    for wrong in ((4, 8, 0, 10), (8, 0, 0, 10), (8, 4, 10, 10), (8, 4, -1, 10)):
        with pytest.raises(ValueError, match="expected 0 < last"):
            lora.cubic_budget(*wrong)
    tx = lora.allocate_rank(optax.sgd(0.1), lambda step: 3)
    trained = moved()
    with pytest.raises(ValueError, match="params"):
        tx.update(trained, tx.init(trained))
