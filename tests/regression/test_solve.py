import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.geometry.kernels import gaussian, lab_gram, lab_kernel
from clujax.regression.solve import (
    ConditioningWarning,
    check_conditioning,
    fit_coefficients,
    gmres,
    leave_one_out,
    lu,
    normal_cg,
    objective,
)


@pytest.fixture
def problem(x64):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (12, 2)), rng.normal(size=12)
    return x, y, lab_gram(x, rng.uniform(1, 4, (12, 2)))


def test_uniform_bandwidths_are_kernel_ridge(x64):
    from sklearn.kernel_ridge import KernelRidge

    rng = np.random.default_rng(0)
    x, y, new = rng.uniform(-1, 1, (15, 3)), rng.normal(size=15), rng.uniform(-1, 1, (6, 3))
    theirs = KernelRidge(kernel="rbf", gamma=1.7, alpha=0.01).fit(x, y)
    theta = np.full((15, 3), np.sqrt(1.7))
    ours = fit_coefficients(lab_gram(x, theta, profile=gaussian), y, 0.01, fit_intercept=False)
    np.testing.assert_allclose(ours.coef, theirs.dual_coef_, atol=1e-10)
    np.testing.assert_allclose(lab_kernel(new, x, theta, profile=gaussian) @ ours.coef, theirs.predict(new), atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.03])
def test_residual_on_the_support_is_ridge_times_coefficient(problem, ridge):
    _, y, gram = problem
    model = fit_coefficients(gram, y, ridge)
    np.testing.assert_allclose(y - (gram @ model.coef + model.intercept), ridge * model.coef, atol=1e-10)
    np.testing.assert_allclose(model.intercept, y.mean(), atol=1e-14)


def test_stationary_point_of_the_primal(x64):
    rng = np.random.default_rng(3)
    phi, psi, y, ridge = rng.normal(size=(9, 6)), rng.normal(size=(9, 6)), rng.normal(size=6), 0.4
    gram = jnp.asarray(phi.T @ psi)
    a = fit_coefficients(gram, y, ridge, fit_intercept=False).coef
    b = fit_coefficients(gram, y, ridge, fit_intercept=False, transpose=True).coef
    loss = lambda w, v: ridge * w @ v + (phi.T @ w - y) @ (psi.T @ v - y)
    for part in jax.grad(loss, (0, 1))(psi @ a, phi @ b):
        np.testing.assert_allclose(part, 0, atol=1e-11)
    np.testing.assert_allclose(y - phi.T @ psi @ a, ridge * a, atol=1e-11)
    np.testing.assert_allclose(y - psi.T @ phi @ b, ridge * b, atol=1e-11)
    np.testing.assert_allclose(loss(psi @ a, phi @ b), objective(gram, y, ridge), atol=1e-11)


def test_padding_changes_nothing(problem):
    _, y, gram = problem
    padded = jnp.full((16, 16), 0.7).at[:12, :12].set(gram)
    mask = jnp.where(jnp.arange(16) < 12, 1.0, 0.0)
    model = fit_coefficients(padded, np.append(y, np.full(4, 9.0)), 0.01, mask=mask)
    plain = fit_coefficients(gram, y, 0.01)
    np.testing.assert_allclose(model.coef[:12], plain.coef, atol=1e-12)
    np.testing.assert_array_equal(model.coef[12:], 0)


def test_leave_one_out_is_refitting_without_the_point(problem):
    _, y, gram = problem
    left = leave_one_out(gram, y, 0.02)
    for i in range(len(y)):
        rest = np.delete(np.arange(len(y)), i)
        model = fit_coefficients(gram[np.ix_(rest, rest)], y[rest], 0.02, fit_intercept=False)
        np.testing.assert_allclose(left[i], y[i] - gram[i, rest] @ model.coef, atol=1e-11)


@pytest.mark.parametrize("solve", [gmres, normal_cg])
def test_iterative_solvers_and_their_gradients(problem, solve):
    _, y, gram = problem
    targets = np.stack([y, y**2], 1)
    value = lambda r, s: jnp.sum(fit_coefficients(gram, targets, r, solve=s).coef ** 2)
    for f in (lambda s: value(0.3, s), lambda s: jax.grad(value)(0.3, s)):
        np.testing.assert_allclose(f(solve), f(lu), rtol=1e-4)


def test_singular_systems_are_told(x64):
    points = np.array([[0.0], [1.0], [2.0]])
    singular = lab_gram(points, np.array([[0.7710016021294229], [0.1], [0.7710016021294229]]), profile=gaussian)
    with pytest.warns(ConditioningWarning, match="rcond"):
        assert check_conditioning(singular, 0.0) < 1e-15
    # a ridge may itself make the system singular
    indefinite = lab_gram(points, np.array([[0.5], [0.1], [0.5]]), profile=gaussian)
    ridge = -float(np.linalg.eigvals(indefinite).real.min())
    assert check_conditioning(indefinite, 0.0) > 1e-3
    with pytest.warns(ConditioningWarning, match="ridge"):
        check_conditioning(indefinite, ridge)
    with pytest.raises(np.linalg.LinAlgError, match="float64"):
        check_conditioning(singular, 0.0, np.array([np.nan]))
