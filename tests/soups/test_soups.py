"""Soups of a quadratic loss, where everything is known: weights that sum to 1, recipes, the affine hull and its limits."""

import gc
import weakref

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
    pool = soups.AdapterPool(base, each, spec)
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
    broken = [*good[:2], good[2] | {"a": good[2]["a"] | {"bias": jnp.array([1.0, jnp.inf])}}]
    with pytest.raises(ValueError, match=r"model 2.*a/bias.*(finite|NaN|Inf)|model 2.*(finite|NaN|Inf).*a/bias"):
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


def test_the_gradient_of_the_coefficients_is_that_of_an_explicit_sum_and_of_differences():
    """θ = Σ_k w_k θ_k with w of one coefficient a model, and of one a model and leaf; the first is the sum of the second."""
    from clujax.geometry import mixing

    pool, center = models(4), jax.tree.map(lambda *x: sum(x) / 4, *models(4))
    directions = jax.tree.map(lambda c, *x: jnp.stack(x) - c, center, *pool)
    found = {}
    for rule in (soups.groups.leaf, soups.groups.whole):
        numbers = soups.make_groups(center, rule)
        x = jnp.full((4, len(numbers.names)), 0.1)
        slope = jax.grad(lambda p: loss_fn(p, None, None)[0])(mixing.mix(center, directions, x, numbers))
        found[rule] = mixing.project(slope, directions, numbers)

        def explicit(x, numbers=numbers):
            w = 0.25 + x - x.mean(0)  # Σ_k x_k (θ_k − mean) moves weight from all to k
            leaves = [jax.tree.leaves(model) for model in pool]
            mixed = [sum(w[k, of] * leaves[k][i] for k in range(4)) for i, of in enumerate(numbers.of)]
            return loss_fn(jax.tree.unflatten(jax.tree.structure(center), mixed), None, None)[0]

        np.testing.assert_allclose(found[rule], jax.grad(explicit)(x), rtol=1e-4, atol=1e-5)
        step = 1e-2
        for at in np.ndindex(*x.shape):
            difference = (explicit(x.at[at].add(step)) - explicit(x.at[at].add(-step))) / (2 * step)
            np.testing.assert_allclose(found[rule][at], difference, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(found[soups.groups.leaf].sum(1), found[soups.groups.whole][:, 0], rtol=1e-4, atol=1e-5)


def test_one_block_of_all_models_is_the_same_from_either_reference():
    plain = soups.Descent(optimizer=optax.sgd, learning_rate=0.05, epochs=4)
    options = {"inner": plain, "normalize": soups.raw, "order": soups.given([0, 1, 2, 3, 4])}
    running, mean = (learn(MemoryPool(models()), reference=r, **options) for r in (soups.running, soups.pool_mean))
    close(running.params, mean.params, 1e-6)
    np.testing.assert_allclose(running.weights, mean.weights, atol=1e-6)


def test_a_model_at_the_reference_has_no_direction_and_no_coefficient():
    pool = models(3)
    middle = jax.tree.map(lambda *x: sum(x) / 3, *pool)
    options = {"reference": soups.pool_mean, "normalize": soups.unit}
    three = learn(MemoryPool(pool), **(options | {"order": soups.given([0, 1, 2])}))
    four = learn(MemoryPool([*pool, middle]), **(options | {"order": soups.given([0, 1, 2, 3])}))
    close(three.params, four.params, 1e-5)
    alpha = four.weights[:3] - four.weights[3]  # the fourth has no coefficient, and its share of the mean alone
    np.testing.assert_allclose(three.weights, alpha + (1 - alpha.sum(0)) / 3, atol=1e-5)
    assert np.isfinite(four.weights).all()


def test_models_that_are_not_loaded_are_in_the_center():
    """In the paper's form a block starts from mean + Σ α_j (θ_j − mean) over all models outside of it."""
    seen = []

    class Watched:
        epochs = 3

        def prepare(self, span, *arguments):
            solve = soups.Descent(optimizer=optax.adam, learning_rate=0.05, epochs=3).prepare(span, *arguments)

            def run(center, directions, x, *rest, **more):
                after, losses = solve(center, directions, x, *rest, **more)
                seen.append((jax.device_get(center), np.array(x), np.array(after)))
                return after, losses

            return run

    pool, order = models(4), [0, 1, 2, 3]
    found = soups.mehl(MemoryPool(pool), loss_fn, BATCHES, key=KEY, block_size=2, sweeps=3, reference=soups.pool_mean,
                       normalize=soups.raw, order=soups.given(order), inner=Watched())  # fmt: skip
    mean = jax.tree.map(lambda *x: sum(x) / 4, *pool)
    alpha = np.zeros((4, len(found.groups.names)))
    for number, (center, began, after) in enumerate(seen):
        block = [0, 1] if number % 2 == 0 else [2, 3]
        np.testing.assert_allclose(began, alpha[block], atol=1e-6)
        others = [k for k in order if k not in block]
        for i, (name, leaf) in enumerate(geometry.named(center).items()):
            if i in found.groups.frozen or name == "fixed":
                continue
            of, middle = found.groups.of[i], geometry.named(mean)[name]
            step = sum(alpha[k, of] * (geometry.named(pool[k])[name] - middle) for k in others)
            np.testing.assert_allclose(leaf, middle + step, atol=1e-5)
        alpha[block] = after
    assert len(seen) == 6


class Transient:
    """A pool that keeps no model, and counts those that are alive."""

    def __init__(self, count):
        self.count, self.alive, self.most = count, 0, 0
        self.struct = jax.eval_shape(lambda: self.made(0))
        self.names = [f"m{k}" for k in range(count)]

    def made(self, k):
        return {"kernel": jnp.zeros((64, 32)) + k, "bias": jnp.zeros(32) - k}

    def __len__(self):
        return self.count

    def load(self, k, paths=None):
        kernel = np.random.default_rng(k).normal(size=(64, 32)).astype(np.float32)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(kernel, self.let_go)
        return {"kernel": kernel, "bias": np.full(32, -k, np.float32)}

    def let_go(self):
        self.alive -= 1


@pytest.mark.parametrize("prefetch", [True, False])
def test_memory_does_not_grow_with_the_pool(prefetch):
    far = lambda params, batch, key: (sum(jnp.sum(p**2) for p in jax.tree.leaves(params)), {})
    inner, seen = soups.Descent(optimizer=optax.adam, learning_rate=0.05, epochs=1), []
    for count in (4, 8, 16):
        pool = Transient(count)
        before = sum(each.nbytes for each in jax.live_arrays())
        found = soups.mehl(pool, far, BATCHES, key=KEY, inner=inner, block_size=2, prefetch=prefetch)
        seen.append((pool.most, max(record["live_bytes"] for record in found.history) - before))
        del found
        gc.collect()
    one = 4 * (64 * 32 + 32)
    assert all(most <= 5 for most, _ in seen)  # a block, the next one, and the model in hand
    assert all(abs(live - seen[0][1]) < 1.5 * one for _, live in seen)
    assert seen[0][1] < 6 * one  # (b + 3)·D and small change
