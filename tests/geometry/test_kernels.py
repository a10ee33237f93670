import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from clujax.geometry.kernels import gaussian, lab_gram, lab_kernel, laplacian, sqdist_direct, sqdist_gemm

PROFILES = pytest.mark.parametrize("profile", [gaussian, laplacian])


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (5, 3)), rng.uniform(-1, 1, (4, 3)), rng.uniform(0.5, 2, (4, 3))


@PROFILES
def test_column_j_uses_the_bandwidths_of_support_point_j(x64, points, profile):
    x, support, theta = points
    expected = np.empty((5, 4))
    for b in range(5):
        for j in range(4):
            distance = np.linalg.norm(theta[j] * (x[b] - support[j]))
            expected[b, j] = np.exp(-(distance**2) if profile is gaussian else -distance)
    np.testing.assert_allclose(lab_kernel(x, support, theta, profile=profile), expected, atol=1e-13)


@PROFILES
def test_invariances(x64, points, profile):
    x, support, theta = points
    plain = lab_kernel(x, support, theta, profile=profile)
    signs = np.where(np.arange(12).reshape(4, 3) % 2, -1.0, 1.0)
    np.testing.assert_array_equal(lab_kernel(x, support, theta * signs, profile=profile), plain)
    np.testing.assert_allclose(lab_kernel(x + 3, support + 3, theta, profile=profile), plain, atol=1e-12)
    np.testing.assert_allclose(lab_kernel(5 * x, 5 * support, theta / 5, profile=profile), plain, atol=1e-12)


@PROFILES
def test_gradient_is_finite_and_zero_where_rows_coincide(points, profile):
    _, support, theta = (p.astype(np.float32) for p in points)
    grad = jax.grad(lambda t: jnp.trace(lab_kernel(support, support, t, profile=profile, sqdist=sqdist_direct)))(theta)
    np.testing.assert_array_equal(grad, 0)


def test_products_agree_with_differences(x64):
    rng = np.random.default_rng(1)
    x, support = rng.uniform(-1, 1, (50, 6)), rng.uniform(-1, 1, (40, 6))
    theta = np.abs(rng.normal(size=(40, 6)))
    theta *= 10 / np.linalg.norm(theta, axis=1, keepdims=True)
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        a = [v.astype(dtype) for v in (x, support, theta)]
        gap = np.abs(gaussian(sqdist_direct(*a)) - gaussian(sqdist_gemm(*a))).max()
        assert gap <= bound


def test_derivatives_of_distances_by_differences_agree_with_finite_ones(x64, points):
    value = jax.jit(lambda x, s, t: jnp.sum(jnp.sin(laplacian(sqdist_direct(x, s, t)))))
    check_grads(value, points, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)
    second = lambda f: jax.jit(jax.jacfwd(jax.grad(lambda t: jnp.sum(jnp.sin(f(*points[:2], t))))))(points[2])
    np.testing.assert_allclose(second(sqdist_direct), second(sqdist_gemm), atol=1e-9)


@pytest.mark.parametrize("features", [1, 4, 6])
def test_any_number_of_features_is_summed_whole(features):
    rng = np.random.default_rng(features)
    x, support, theta = (rng.normal(size=(n, features)) for n in (5, 3, 3))
    expected = (((x[:, None] - support) * theta) ** 2).sum(-1)
    np.testing.assert_allclose(sqdist_direct(x, support, theta), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.diagonal(sqdist_direct(support, support, theta)), 0)


def test_two_counterexamples_of_the_theory(x64):
    points = np.array([[0.0], [1.0], [2.0]])
    singular = np.array([[0.7710016021294229], [0.1], [0.7710016021294229]])
    assert abs(np.linalg.det(lab_gram(points, singular, profile=gaussian))) < 1e-15
    indefinite = lab_gram(points, np.array([[0.5], [0.1], [0.5]]), profile=gaussian)
    assert np.linalg.eigvals(indefinite).real.min() == pytest.approx(-0.0714235704, abs=1e-9)
    np.testing.assert_array_equal(np.diagonal(indefinite), 1)
