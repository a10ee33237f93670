import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.geometry.kernels import gaussian, lab_kernel, laplacian, sqdist_direct
from clujax.regression import bandwidths
from clujax.regression.bandwidths import Objective, adam, bandwidth_loss, index_stream, train_bandwidths


@pytest.fixture
def problem(x64):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (20, 2)), rng.normal(size=20)
    return rng.uniform(0.5, 2, (6, 2)), x[:6], y[:6], x[3:12], y[3:12]  # batch rows 0..2 are support rows


@pytest.mark.parametrize("profile", [gaussian, laplacian])
def test_gradient_is_adjoint_and_finite_difference(problem, profile):
    theta, s, ys, x, y = problem
    ridge, target = 0.05, Objective(profile)
    f = jax.jit(lambda t: bandwidth_loss(t, s, ys, x, y, ridge, target))
    grad = np.asarray(jax.jit(jax.grad(f))(theta))
    k_ss, k_bs = (np.asarray(lab_kernel(v, s, theta, profile=profile, sqdist=sqdist_direct)) for v in (s, x))
    system = k_ss + ridge * np.eye(6)
    alpha = np.linalg.solve(system, ys - ys.mean())
    g = 2 / len(x) * (k_bs @ alpha + ys.mean() - y)
    u = np.linalg.solve(system.T, k_bs.T @ g)

    def slope(rows, kernel):  # ∂K(t, x_j)/∂θ_jm: [rows, j, m]
        squared = (rows[:, None] - s) ** 2
        if profile is gaussian:
            return -2 * theta * squared * kernel[..., None]
        norm = np.linalg.norm(theta * (rows[:, None] - s), axis=-1)[..., None]
        return np.where(norm > 0, -theta * squared * kernel[..., None] / np.where(norm > 0, norm, 1), 0)

    adjoint = np.einsum("b,bjm,j->jm", g, slope(x, k_bs), alpha) - np.einsum("b,bjm,j->jm", u, slope(s, k_ss), alpha)
    np.testing.assert_allclose(grad, adjoint, rtol=1e-8, atol=1e-10)
    h = 1e-5
    for j, m in ((0, 0), (3, 1)):
        step = np.zeros_like(theta)
        step[j, m] = h
        np.testing.assert_allclose(grad[j, m], (f(theta + step) - f(theta - step)) / (2 * h), rtol=1e-6, atol=1e-8)


def test_padded_loss_and_gradient_are_exact(problem):
    theta, s, ys, x, y = problem
    pad = lambda v, fill: np.concatenate([v, np.full((4, *v.shape[1:]), fill)])
    mask = np.append(np.ones(6), np.zeros(4))
    both = jax.jit(jax.value_and_grad(bandwidth_loss), static_argnums=6)
    loss, grad = both(theta, s, ys, x, y, 0.01)
    padded_loss, padded = both(pad(theta, 1.0), pad(s, 0.3), pad(ys, 5.0), x, y, 0.01, Objective(), mask)
    np.testing.assert_allclose(padded_loss, loss, atol=1e-12)
    np.testing.assert_allclose(padded[:6], grad, atol=1e-12)
    np.testing.assert_array_equal(padded[6:], 0)


def test_training_descends_and_leaves_padding(problem):
    theta, s, ys, x, y = problem
    mask, tx = np.append(np.ones(5), 0.0), adam(0.05)
    stream = np.tile(np.arange(9), (30, 1)).astype(np.int32)
    new, _, losses = train_bandwidths(
        theta, tx.init(theta), stream, x, y, s, ys, mask, 0.01, objective=Objective(), tx=tx
    )
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_array_equal(new[5], theta[5])
    y_bad = np.array(y)
    y_bad[0] = np.inf
    kept, _, losses = train_bandwidths(
        theta, tx.init(theta), stream, x, y_bad, s, ys, mask, 0.01, objective=Objective(), tx=tx
    )
    assert np.isnan(losses).all()
    np.testing.assert_array_equal(kept, theta)


def test_index_stream_is_permutations_end_to_end():
    stream = index_stream(jax.random.key(1), 7, 5, 4).reshape(-1)
    assert sorted(stream[:7]) == sorted(stream[7:14]) == list(range(7))
    assert set(index_stream(jax.random.key(1), 7, 5, 4, np.array([2, 5])).flat) == {2, 5}


def test_modes_tie_what_they_say(x64):
    raw, mask = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_array_equal(bandwidths.ARD.expand(raw, mask), [[1, 2]] * 3)
    np.testing.assert_array_equal(bandwidths.SCALAR.expand(raw, mask), np.full((3, 2), 1.5))
    np.testing.assert_array_equal(bandwidths.LOCAL_SCALAR.expand(raw, mask), [[0.5] * 2, [2.5] * 2, [4.5] * 2])
    np.testing.assert_allclose(bandwidths.POSITIVE.expand(bandwidths.POSITIVE.compress(raw + 1), mask), raw + 1)


def test_rsse_is_one_minus_r2(x64):
    from sklearn.metrics import r2_score

    y, f = np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 4.5])
    np.testing.assert_allclose(1 - bandwidths.rsse(jnp.asarray(f), jnp.asarray(y)), r2_score(y, f), atol=1e-12)
