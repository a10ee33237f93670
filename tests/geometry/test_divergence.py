import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from clujax.geometry import entropy, hellinger, js, kl

logits = hnp.arrays(np.float32, (2, 3, 5), elements=st.floats(-200, 200, width=32))


def softmax(z):
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_all_are_the_sums_over_probabilities(x64):
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 6)) * 3
    p, q = softmax(a), softmax(b)
    m = (p + q) / 2
    np.testing.assert_allclose(entropy(a), stats.entropy(p, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(kl(a, b), stats.entropy(p, q, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(js(a, b), (stats.entropy(p, m, axis=-1) + stats.entropy(q, m, axis=-1)) / 2, rtol=1e-12)
    np.testing.assert_allclose(hellinger(a, b), np.sqrt(1 - np.sqrt(p * q).sum(-1)), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(z=logits, shift=st.floats(-50, 50, width=32))
def test_bounds_symmetry_and_shifts(z, shift):
    a, b = jnp.asarray(z)
    assert (js(a, b) >= 0).all()
    assert (js(a, b) <= np.log(2) + 1e-6).all()
    np.testing.assert_allclose(js(a, b), js(b, a), atol=1e-6)
    np.testing.assert_allclose(hellinger(a, b), hellinger(b, a), atol=1e-6)
    assert (kl(a, b) >= -1e-5).all()
    assert (entropy(a) <= np.log(5) + 1e-5).all()
    np.testing.assert_allclose(entropy(a + shift), entropy(a), atol=2e-3)
    np.testing.assert_array_equal(kl(a, a), 0)


def test_exact_where_the_margin_swallows_float32():
    a = jnp.array([0.0, -30.0])  # 1 − p is below the spacing of float32 at 1
    assert float(entropy(a)) == pytest.approx(31 * np.exp(-30.0), rel=1e-4)
    assert float(kl(jnp.array([0.0, -1e4]), jnp.array([-1e4, 0.0]))) == pytest.approx(1e4)


@pytest.mark.parametrize("low", [-jnp.inf, -1e30])
def test_classes_without_mass_count_nothing_and_give_no_nan(low):
    a, b = jnp.array([low, 2.0, 3.0]), jnp.array([low, 2.0, 1.0])
    for divergence in (kl, js, hellinger):
        np.testing.assert_allclose(divergence(a, b), divergence(a[1:], b[1:]), rtol=1e-5)
        for argument in (0, 1):
            slope = jax.jit(jax.grad(divergence, argument))
            gradient = slope(a, b)
            np.testing.assert_allclose(gradient[1:], slope(a[1:], b[1:]), rtol=1e-4)
            assert gradient[0] == 0
    np.testing.assert_allclose(entropy(a), entropy(a[1:]), rtol=1e-5)
    assert jnp.isfinite(jax.grad(entropy)(a)).all()
    one_sided = jnp.array([low, 0.0]), jnp.array([0.0, low])
    np.testing.assert_allclose(js(*one_sided), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(hellinger(*one_sided), 1, rtol=1e-6)
    assert jnp.isfinite(jax.grad(js)(*one_sided)).all()


@pytest.mark.parametrize("divergence", [kl, js, hellinger])
def test_gradient_at_equality_is_zero(divergence):
    z = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(jax.grad(divergence)(z, z), 0, atol=1e-6)
