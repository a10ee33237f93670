"""Soups of a quadratic loss, where everything is known: weights that sum to 1, recipes, the affine hull and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax import geometry, lora, soups
from clujax.soups import MemoryPool

KEY = jax.random.key(0)
BATCHES = [{"x": jnp.zeros((4, 1))}] * 3


def models(count=5, seed=0):
    draw = np.random.default_rng(seed)
    make = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    return [{"a": {"kernel": make(3, 2), "bias": make(2)}, "fixed": jnp.ones(2)} for _ in range(count)]


TARGET = {"a": {"kernel": jnp.full((3, 2), 0.3), "bias": jnp.array([0.5, -0.5])}, "fixed": jnp.ones(2)}


def loss_fn(params, batch, key):
    return 0.5 * sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(TARGET))), {}


def value(params):
    return float(loss_fn(params, None, None)[0])


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def learn(pool, **options):
    settings = {"key": KEY, "inner": soups.Descent(optimizer=optax.adam, learning_rate=0.05, epochs=5)}
    return soups.mehl(pool, loss_fn, BATCHES, **(settings | options))


def test_uniform_is_the_mean():
    pool = MemoryPool(models())
    found = soups.uniform(pool)
    close(found.params, jax.tree.map(lambda *x: sum(x) / 5, *models()), 1e-6)
    np.testing.assert_allclose(found.weights, 0.2, rtol=1e-6)


def test_greedy_adds_only_what_improves():
    pool, score = MemoryPool(models()), lambda params: -value(params)
    found = soups.greedy(pool, score)
    best = soups.best_individual(pool, score)
    assert score(found.params) >= score(best.params)
    taken = found.weights[:, 0] > 0
    close(found.params, jax.tree.map(lambda *x: sum(x) / len(x), *[m for m, t in zip(models(), taken) if t]))


@pytest.mark.parametrize("reference", [soups.running, soups.pool_mean, soups.running_from_mean])
@pytest.mark.parametrize("rule", [soups.groups.leaf, soups.groups.whole])
def test_weights_sum_to_one_and_rebuild_the_soup(tmp_path, reference, rule):
    pool = MemoryPool(models())
    found = learn(pool, block_size=2, groups=rule, reference=reference, sweeps=2)
    np.testing.assert_allclose(found.weights.sum(0), 1.0, atol=1e-5)
    assert value(found.params) < value(soups.uniform(pool).params)
    recipe = soups.recipe_of(pool, found)
    soups.save_recipe(tmp_path / "soup.json", recipe)
    close(soups.from_recipe(pool, soups.load_recipe(tmp_path / "soup.json")), found.params)
    np.testing.assert_array_equal(found.params["fixed"], 1.0)


def test_a_still_optimizer_leaves_the_reference():
    still = soups.Descent(optimizer=optax.sgd, learning_rate=0.0, epochs=1)
    pool = MemoryPool(models())
    close(learn(pool, reference=soups.pool_mean, inner=still).params, soups.uniform(pool).params)


def test_the_hyperplane_reaches_what_the_simplex_cannot():
    """The target lies on the line through two models, outside the segment between them."""
    first, second = models(2)
    beyond = jax.tree.map(lambda a, b: a + 1.5 * (b - a), first, second)
    miss = lambda params, batch, key: (
        0.5 * sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(beyond))), {},
    )  # fmt: skip
    steps = soups.Descent(optimizer=optax.adam, learning_rate=0.1, epochs=120)
    pool = MemoryPool([first, second])
    outside = soups.mehl(pool, miss, BATCHES, key=KEY, inner=steps, groups=soups.groups.whole)
    assert miss(outside.params, None, None)[0] < 1e-3
    assert outside.weights.max() > 1.2
    inside = soups.mehl(pool, miss, BATCHES, key=KEY, inner=steps, groups=soups.groups.whole, extrapolate=False)
    assert inside.weights.min() >= -1e-6
    assert miss(inside.params, None, None)[0] > 0.1


def test_schedule_of_the_published_script():
    """8 steps: warm-up int(1.6) = 1, then half a cosine over 7."""
    rates = np.array([soups.warmup_cosine(0.1, 8)(s) for s in range(8)])
    expected = [0.1] + [0.05 * (1 + np.cos(np.pi * (s - 1) / 7)) for s in range(1, 8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_adapters_of_one_base_are_a_pool():
    base = {"kernel": jnp.asarray(np.random.default_rng(3).normal(size=(6, 4)), jnp.float32)}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 2)])
    each = []
    for i in range(3):
        started = lora.init(jax.random.key(i), base, spec)[0]
        each.append(jax.tree.map(lambda x, i=i: x + 0.1 * jax.random.normal(jax.random.key(i), x.shape), started))
    pool = soups.AdapterPool(base, each, {entry.name: entry for entry in spec})
    assert len(pool) == 3
    close(pool.load(1), lora.merge(base, each[1], spec))
    close(soups.uniform(pool).params, jax.tree.map(lambda *x: sum(x) / 3, *[lora.merge(base, a, spec) for a in each]))


def test_bad_pools_are_refused():
    good = models(3)
    with pytest.raises(ValueError, match=r"2|two"):
        learn(MemoryPool(good[:1]))
    with pytest.raises(ValueError, match="block_size"):
        learn(MemoryPool(good), block_size=0)
    with pytest.raises(ValueError, match="block_size is 1"):
        learn(MemoryPool(good), block_size=1)
    broken = [*good[:2], jax.tree.map(lambda x: x * jnp.nan, good[2])]
    with pytest.raises(ValueError, match=r"finite|NaN"):
        learn(MemoryPool(broken))
    with pytest.raises(ValueError, match="sweeps"):
        learn(MemoryPool(good), sweeps=0)


def test_mixing_is_linear_and_its_gradient_a_projection():
    from clujax.geometry import mixing

    directions = jax.tree.map(lambda *x: jnp.stack(x), *models(3))
    numbers = soups.make_groups(TARGET)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
    by_rule = jax.grad(lambda x: loss_fn(mixing.mix(TARGET, directions, x, numbers), None, None)[0])(x)
    slope = jax.grad(lambda p: loss_fn(p, None, None)[0])(mixing.mix(TARGET, directions, x, numbers))
    np.testing.assert_allclose(mixing.project(slope, directions, numbers), by_rule, rtol=1e-4, atol=1e-5)
    assert set(geometry.named(TARGET)) == {"a/kernel", "a/bias", "fixed"}
