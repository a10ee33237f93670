"""Noise by key: its moments, its scale per filter, its independence of everything but the key; expectations of closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clujax import geometry
from clujax.geometry import Layout, perturb
from clujax.geometry.paths import named, replaced, stable_hash
from clujax.geometry.perturb import noise, scalar_value_and_grad

DENSE = {"kernel": Layout((0,))}


def kernel(shape=(6, 4), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def tree():
    return {"a": {"kernel": kernel((8, 4)), "bias": jnp.ones(4)}, "b": {"kernel": kernel((4, 2), 1)}}


LAYOUTS = {"a/kernel": Layout((0,)), "b/kernel": Layout((0,))}


@pytest.mark.parametrize(
    ("shape", "layout", "axes"),
    [
        ((6, 4), Layout((0,)), (0,)),
        ((4, 6), Layout((1,)), (1,)),
        ((3, 3, 2, 5), Layout((0, 1, 2)), (0, 1, 2)),
        ((6, 2, 3), Layout((0,)), (0,)),
        ((2, 3, 6), Layout((0, 1)), (0, 1)),
        ((3, 6, 4), Layout((1,), (0,)), (1,)),
    ],
)
def test_deviation_of_every_layout(shape, layout, axes):
    w = np.asarray(kernel(shape), np.float64)
    n = np.prod([shape[i] for i in axes])
    expected = np.sqrt((w**2).sum(axes, keepdims=True) / n)
    found = geometry.filter_std(jnp.asarray(w, jnp.float32), layout)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(geometry.filter_std(jnp.asarray(3 * w, jnp.float32), layout), 3 * expected, rtol=1e-6)


def test_deviation_of_both_orientations_and_of_more_inputs():
    w = kernel()
    np.testing.assert_array_equal(geometry.filter_std(w, Layout((0,)))[0], geometry.filter_std(w.T, Layout((1,)))[:, 0])
    longer = jnp.concatenate([w, jnp.zeros_like(w)])
    np.testing.assert_allclose(
        geometry.filter_std(longer, Layout((0,))), geometry.filter_std(w, Layout((0,))) / np.sqrt(2), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("sampler", "kurtosis"), [(geometry.normal, 3.0), (geometry.rademacher, 1.0), (geometry.uniform, 1.8)]
)
def test_moments_and_what_a_filter_gives(sampler, kurtosis):
    w, x, sigma = kernel((32, 3)), kernel((32, 1), 1)[:, 0], 0.3
    keys = jax.random.split(jax.random.key(2), 100_000 // 4)
    std = geometry.filter_std(w, Layout((0,)))
    draw = jax.jit(jax.vmap(lambda key: noise(key, "kernel", w.shape, std, sampler)))
    z = np.asarray(draw(keys), np.float64)
    flat = (z / np.asarray(std)).ravel()
    assert abs(flat.mean()) < 0.01
    assert abs((flat**4).mean() / (flat**2).mean() ** 2 - kurtosis) < 0.1
    given_out = sigma * np.einsum("kio,i->ko", z, x)
    expected = sigma**2 / 32 * (np.asarray(w) ** 2).sum(0) * float(x @ x)
    np.testing.assert_allclose(given_out.var(0), expected, rtol=0.04)
    assert np.all(np.abs(given_out.mean(0)) < 4 * np.sqrt(expected / len(keys)))


@pytest.mark.parametrize("n", [16, 256])
def test_relative_noise_does_not_depend_on_the_fan_in(n):
    """Var of a noisy output over that of a clean one is 1 + σ² at any width (proposition 3.2)."""
    sigma, w = 0.5, kernel((n, 4))
    x = jax.random.normal(jax.random.key(3), (20_000, n))

    def outputs(key, row):
        return row @ perturb({"kernel": w}, key, sigma, geometry.filter_wise(DENSE))["kernel"]

    noisy = jax.jit(lambda keys, x: jax.lax.map(lambda each: outputs(*each), (keys, x), batch_size=2000))
    found = noisy(jax.random.split(jax.random.key(4), len(x)), x)
    np.testing.assert_allclose(jnp.var(found, 0) / jnp.var(x @ w, 0), 1 + sigma**2, rtol=0.05)


def test_noise_depends_on_key_and_path_alone():
    params, scale, key = tree(), geometry.filter_wise(LAYOUTS), jax.random.key(0)
    there = perturb(params, key, 0.2, scale)
    jitted = jax.jit(lambda p, k: perturb(p, k, 0.2, scale))(params, key)
    # Fused multiply-add may round the sum otherwise; the draws are the same.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-7), there, jitted)
    many = jax.vmap(lambda k: perturb(params, k, 0.2, scale))(jax.random.split(key, 3))
    second = perturb(params, jax.random.split(key, 3)[1], 0.2, scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=0, atol=3e-7), many, second)
    alone = perturb({"b": params["b"]}, key, 0.2, geometry.filter_wise({"b/kernel": Layout((0,))}))
    np.testing.assert_array_equal(alone["b"]["kernel"], there["b"]["kernel"])
    assert there["a"]["bias"] is params["a"]["bias"]


def test_noise_of_other_steps_and_paths_is_unrelated():
    root, shape = jax.random.key(0), (100_000,)
    draws = [
        np.asarray(noise(geometry.step_key(root, step), name, shape, jnp.ones(()))) for step in (0, 1) for name in "ab"
    ]
    np.testing.assert_array_equal(draws[0], noise(geometry.step_key(root, jnp.int32(0)), "a", shape, jnp.ones(())))
    corr = np.corrcoef(draws) - np.eye(4)
    assert np.abs(corr).max() < 0.015
    assert stable_hash("a") == 0xCA978112  # the first bytes of sha256("a"): the same for ever


@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "model"), P("data", "model")])
def test_noise_has_the_same_bits_under_any_sharding(spec):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    here = NamedSharding(mesh, spec)
    draw = lambda: noise(jax.random.key(5), "k", (16, 8), jnp.ones((1, 8)))
    compiled = jax.jit(draw, out_shardings=here).lower().compile()
    np.testing.assert_array_equal(compiled(), draw())
    assert "all-gather" not in compiled.as_text()


def test_scales():
    params = tree() | {"count": jnp.int32(3)}
    leaves = named(params)
    assert set(geometry.isotropic()(params)) == {"a/kernel", "a/bias", "b/kernel"}
    np.testing.assert_array_equal(geometry.elementwise()(params)["a/bias"], jnp.abs(leaves["a/bias"]))
    np.testing.assert_allclose(geometry.vector_norm()(params)["a/bias"], [2.0])
    plain = geometry.filter_wise(LAYOUTS)
    ancestors = geometry.filter_wise(LAYOUTS, by_fan_in=False)
    np.testing.assert_allclose(ancestors(params)["a/kernel"], plain(params)["a/kernel"] * np.sqrt(8), rtol=1e-6)
    both = geometry.together(plain, geometry.elementwise())(params)
    assert both["a/kernel"].shape == (1, 4)
    assert both["a/bias"].shape == (4,)
    fisher = geometry.fisher_update({}, params, LAYOUTS)
    np.testing.assert_allclose(fisher["a/kernel"], (leaves["a/kernel"] ** 2).sum(0, keepdims=True), rtol=1e-6)
    again = geometry.fisher_update(fisher, params, LAYOUTS, decay=0.5)
    np.testing.assert_allclose(again["a/kernel"], 1.5 * fisher["a/kernel"], rtol=1e-6)
    less = geometry.fisher_scaled(geometry.together(plain, geometry.elementwise()), fisher, eta=0.1)(params)
    np.testing.assert_allclose(
        less["a/kernel"], plain(params)["a/kernel"] / jnp.sqrt(1 + 0.1 * fisher["a/kernel"]), rtol=1e-6
    )
    np.testing.assert_array_equal(less["a/bias"], leaves["a/bias"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_the_sum_is_cast_once(dtype):
    w = kernel((64, 8)).astype(dtype)
    found = perturb({"kernel": w}, jax.random.key(0), 0.1, geometry.filter_wise(DENSE))["kernel"]
    wide = w.astype(jnp.float32)
    exact = wide + noise(jax.random.key(0), "kernel", w.shape, 0.1 * geometry.filter_std(wide, Layout((0,))))
    np.testing.assert_array_equal(found, exact.astype(dtype))


def test_no_strength_and_filters_of_zeros():
    w = kernel().at[:, 0].set(0.0)
    scale = geometry.filter_wise(DENSE)
    np.testing.assert_array_equal(perturb({"kernel": w}, jax.random.key(0), 0.0, scale)["kernel"], w)
    there = perturb({"kernel": w}, jax.random.key(0), 1.0, scale)["kernel"]
    np.testing.assert_array_equal(there[:, 0], 0.0)
    assert not np.array_equal(there[:, 1], w[:, 1])
    slope = jax.grad(lambda w: jnp.sum(geometry.filter_std(w, Layout((0,)))))(w)
    assert np.isfinite(slope).all()


def quadratic(seed=0):
    """A loss ½⟨w, Hw⟩ on a 3 × 2 kernel and its dense curvature."""
    root = np.random.default_rng(seed).normal(size=(6, 6))
    curvature = jnp.asarray(root @ root.T, jnp.float32)
    return lambda p: 0.5 * p["kernel"].ravel() @ curvature @ p["kernel"].ravel(), np.asarray(curvature)


def test_expected_loss_of_a_quadratic_is_known():
    """E L(W + ε) = L(W) + ½ Σ H_ii std_i², and its gradient is that of L."""
    loss, curvature = quadratic()
    params, sigma = {"kernel": kernel((3, 2))}, 0.3
    std = sigma * np.broadcast_to(geometry.filter_std(params["kernel"], Layout((0,))), (3, 2)).ravel()
    expected = float(loss(params)) + 0.5 * np.sum(np.diag(curvature) * std**2)
    f = geometry.expected_value_and_grad(
        loss, geometry.filter_wise(DENSE), num_samples=20_000, antithetic=True, batch_size=500
    )
    value, gradient = jax.jit(f)(params, jax.random.key(1), sigma)
    np.testing.assert_allclose(value, expected, rtol=0.02)
    # The noise is symmetric in pairs and nothing flows through its deviation: exact, not only in the mean.
    np.testing.assert_allclose(gradient["kernel"].ravel(), curvature @ params["kernel"].ravel(), rtol=1e-3, atol=1e-3)


def test_nothing_flows_through_the_deviation():
    """½‖xᵀW' − y‖² at its minimum: the mean gradient is 0; through the norms it would be σ²/n·‖x‖²·W."""
    w, x, sigma = kernel((3, 2)), jnp.array([1.0, -2.0, 0.5]), 0.5
    y = x @ w
    loss = lambda p: 0.5 * jnp.sum((x @ p["kernel"] - y) ** 2)
    f = geometry.expected_value_and_grad(loss, geometry.filter_wise(DENSE))
    found = jax.jit(jax.vmap(lambda key: f({"kernel": w}, key, sigma)[1]["kernel"]))(
        jax.random.split(jax.random.key(0), 40_000)
    )
    error = jnp.std(found, 0) / np.sqrt(len(found))
    assert np.all(np.abs(jnp.mean(found, 0)) < 5 * error)
    through = sigma**2 / 3 * (x @ x) * w
    assert np.abs(through / error).max() > 10  # the test would see it


def test_the_gradient_through_a_draw_is_the_gradient_at_it():
    loss, _ = quadratic()
    params, key, scale = {"kernel": kernel((3, 2))}, jax.random.key(3), geometry.filter_wise(DENSE)
    through = jax.grad(lambda p: loss(perturb(p, key, 0.5, scale)))(params)
    np.testing.assert_allclose(through["kernel"], jax.grad(loss)(perturb(params, key, 0.5, scale))["kernel"], rtol=1e-5)


def test_one_sample_is_perturb_and_many_are_their_mean():
    loss, _ = quadratic(1)
    params, key, scale = {"kernel": kernel((3, 2))}, jax.random.key(7), geometry.filter_wise(DENSE)
    value, gradient = geometry.expected_value_and_grad(loss, scale)(params, key, 0.2)
    there = perturb(params, key, 0.2, scale)
    np.testing.assert_allclose(value, loss(there), rtol=1e-6)
    np.testing.assert_allclose(gradient["kernel"], jax.grad(loss)(there)["kernel"], rtol=1e-6)
    three, _ = geometry.expected_value_and_grad(loss, scale, num_samples=3)(params, key, 0.2)
    each = [key, *(jax.random.fold_in(key, i) for i in (1, 2))]
    np.testing.assert_allclose(three, np.mean([loss(perturb(params, k, 0.2, scale)) for k in each]), rtol=1e-5)
    aux = lambda p: (loss(p), p["kernel"].sum())
    (_, kept), _ = geometry.expected_value_and_grad(aux, scale, num_samples=2, antithetic=True, has_aux=True)(
        params, key, 0.2
    )
    np.testing.assert_allclose(kept, params["kernel"].sum(), rtol=1e-4)


def test_strength_may_be_traced_and_swept():
    loss, _ = quadratic()
    params, scale = {"kernel": kernel((3, 2))}, geometry.filter_wise(DENSE)
    f = jax.jit(geometry.expected_value_and_grad(loss, scale))
    for sigma in (0.0, 0.1, 0.2):
        f(params, jax.random.key(0), jnp.float32(sigma))
    assert f._cache_size() == 1
    swept = jax.vmap(lambda s: perturb(params, jax.random.key(0), s, scale)["kernel"])(jnp.array([0.0, 0.1, 0.2]))
    np.testing.assert_allclose(swept[2] - swept[0], 2 * (swept[1] - swept[0]), atol=1e-6)


@given(shape=st.sampled_from([(2, 2), (3, 4), (2, 3, 4)]), sigma=st.floats(0, 2), seed=st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_antithetic_draws_are_mirror_images(shape, sigma, seed):
    """The mean of a linear loss over a pair is the loss at the centre, whatever the noise."""
    params = {"kernel": kernel(shape, seed)}
    scale = geometry.filter_wise({"kernel": Layout((0,))})
    f = geometry.expected_value_and_grad(lambda p: jnp.sum(p["kernel"]), scale, num_samples=2, antithetic=True)
    value, gradient = f(params, jax.random.key(seed), sigma)
    np.testing.assert_allclose(value, params["kernel"].sum(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(gradient["kernel"], 1.0)


def test_bad_input():
    params, scale, key = tree(), geometry.filter_wise(LAYOUTS), jax.random.key(0)
    for sigma in (-0.1, float("nan"), jnp.float32(-1)):
        with pytest.raises(ValueError, match="sigma"):
            perturb(params, key, sigma, scale)
    with pytest.raises(ValueError, match=r"x/kernel.*a/bias"):
        perturb(params, key, 0.1, geometry.filter_wise({"x/kernel": Layout((0,))}))
    with pytest.raises(ValueError, match="int32"):
        perturb({"kernel": jnp.ones((2, 2), jnp.int32)}, key, 0.1, geometry.filter_wise(DENSE))
    with pytest.raises(ValueError, match=r"shape \(3,\).*one number"):
        geometry.expected_value_and_grad(lambda p: jnp.ones(3), geometry.isotropic())(params, key, 0.1)
    with pytest.raises(ValueError, match="one number"):
        scalar_value_and_grad(lambda p: (jnp.ones(2), 1), has_aux=True)(jnp.ones(2))
    for count, antithetic in ((0, False), (3, True)):
        with pytest.raises(ValueError, match="num_samples"):
            geometry.expected_value_and_grad(lambda p: 0.0, scale, num_samples=count, antithetic=antithetic)
    with pytest.raises(ValueError, match="a/kernel"):
        replaced(params, {"c": 1})
