"""The asymmetric ridge and ridgeless solve: coefficients, dual coefficients, leave-one-out residuals, conditioning."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Values = Float[Array | np.ndarray, "..."]


class ConditioningWarning(UserWarning):
    """The system of the support points is singular or nearly so."""


class AsymKrr(NamedTuple):
    """Coefficients [n] or [n, c] and intercept [] or [c] of f(t) = intercept + K(t, S) coef."""

    coef: Array
    intercept: Array


def lu(system: Values, right: Values) -> Array:
    """Solve by LU with partial pivoting; the reverse rule uses the same factors again. 2n³/3 flops."""
    return jnp.linalg.solve(system, right)


def gmres(system: Values, right: Values) -> Array:
    """Solve by GMRES (restarted after 50), differentiated implicitly; for supports beyond LU's reach."""
    solve = lambda b: jax.scipy.sparse.linalg.gmres(lambda v: system @ v, b, tol=1e-6, restart=50, maxiter=20)[0]
    return solve(right) if right.ndim == 1 else jax.vmap(solve, 1, 1)(right)


def normal_cg(system: Values, right: Values) -> Array:
    """Solve by conjugate gradients on AᵀA (A is not symmetric: plain CG is the wrong tool)."""
    normal = lambda v: system.T @ (system @ v)
    return jax.scipy.sparse.linalg.cg(normal, system.T @ right, tol=1e-7, maxiter=1000)[0]


def fit_coefficients(
    gram: Values,
    y: Values,
    ridge: float | Array,
    *,
    mask: Values | None = None,
    fit_intercept: bool = True,
    solve: Callable = lu,
    transpose: bool = False,
) -> AsymKrr:
    """Coefficients α = (K + λI)⁻¹ (y − β₀), β₀ the mean of the support's targets; λ = 0 interpolates.

    Args:
        gram: [n, n] with column j of support point j.
        y: [n] or [n, c] targets of the support.
        ridge: λ ≥ 0 (a ridge does *not* guarantee invertibility; see `check_conditioning`).
        mask: [n] ones for rows in use; the others get coefficient 0 and change nothing (a block-diagonal system).
        fit_intercept: subtract the mean first.
        solve: `lu`, `gmres`, `normal_cg` or any (matrix, right side) -> solution.
        transpose: coefficients β of the second regressor, (Kᵀ + λI)⁻¹ y, instead of α.

    Source: arXiv 2406.01435, theorem 3.3.
    """
    system = gram.T if transpose else gram
    mask = jnp.ones(len(gram), gram.dtype) if mask is None else mask
    rows = mask if y.ndim == 1 else mask[:, None]
    # the tiny guard serves a support of no rows
    mean = jnp.sum(y * rows, 0) / jnp.maximum(jnp.sum(mask), 1)
    intercept = mean if fit_intercept else jnp.zeros_like(mean)
    system = system * mask[:, None] * mask + jnp.diag(ridge * mask + (1 - mask))
    return AsymKrr(solve(system, (y - intercept) * rows), intercept)


def objective(gram: Values, y: Values, ridge: float | Array) -> Array:
    """Value λ yᵀ(K + λI)⁻¹y of the saddle point, without an intercept (arXiv 2406.01435, eq. 4)."""
    return ridge * jnp.sum(y * fit_coefficients(gram, y, ridge, fit_intercept=False).coef)


def leave_one_out(gram: Values, y: Values, ridge: float | Array) -> Array:
    """Residuals y_i − f₋ᵢ(x_i) = α_i / (A⁻¹)_ii of every support point left out, without an intercept; one LU.

    Asymmetric A included. On a support grown by residuals the left-out points are hard: a pessimistic estimate.
    """
    system = gram + ridge * jnp.eye(len(gram), dtype=gram.dtype)
    y = jnp.asarray(y)
    columns = y if y.ndim == 2 else y[:, None]
    # the diagonal of the inverse needs n right-hand sides; the inverse is not used for the solve
    solved = lu(system, jnp.concatenate([columns, jnp.eye(len(gram), dtype=gram.dtype)], 1))
    left = solved[:, : columns.shape[1]] / jnp.diagonal(solved[:, columns.shape[1] :])[:, None]
    return left.reshape(y.shape)


def reciprocal_condition(system: Values) -> float:
    """LAPACK's estimate of 1/(‖A‖₁‖A⁻¹‖₁) on the host: 0 is singular, 1 perfect."""
    from scipy.linalg import lapack

    system = np.asarray(system)
    single = system.dtype == np.float32
    factor, _, info = (lapack.sgetrf if single else lapack.dgetrf)(system)
    if info > 0:
        return 0.0
    norm = np.abs(system).sum(0).max()
    return float((lapack.sgecon if single else lapack.dgecon)(factor, norm)[0])


def check_conditioning(gram: Values, ridge: float, coef: Values | None = None) -> float:
    """Return rcond of K + λI; warn when it is too small for the dtype, refuse coefficients that are not finite.

    Warns:
        ConditioningWarning: rcond below eps·n (ridgeless: 100·eps·n).

    Raises:
        numpy.linalg.LinAlgError: `coef` has NaN or infinity.
    """
    gram = np.asarray(gram)
    rcond = reciprocal_condition(gram + np.asarray(ridge * np.eye(len(gram)), gram.dtype))
    advice = "remove near-duplicate support rows, change ridge, or fit in float64"
    if coef is not None and not np.isfinite(coef).all():
        raise np.linalg.LinAlgError(
            f"the system of {len(gram)} support points is singular (rcond {rcond:.1e}, ridge {ridge:g}): {advice}"
        )
    if rcond < np.finfo(gram.dtype).eps * len(gram) * (1 if ridge > 0 else 100):
        warnings.warn(
            f"the system of {len(gram)} support points is ill-conditioned (rcond {rcond:.1e}, ridge {ridge:g}, "
            f"{gram.dtype}): {advice}",
            ConditioningWarning,
            stacklevel=2,
        )
    return rcond
