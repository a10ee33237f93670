"""Explicit features of the RBF kernel, K = Φ Φᵀ, and the linear algebra that a solver needs of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve, cho_solve_banded, cholesky_banded

from clujax.errors import RequestError

# On a line, with γ = 1: the grid of bumps and where each is cut off leave errors of 1e-13 in the kernel.
STEP, REACH, CELL = 0.28, 14, 16
WIDTH = CELL + 2 * REACH
# BLAS leaves products of so few rows to one thread; a team that waits for its members costs more than it brings here.
PIECE = 128

# In more dimensions more rows than this must have a kernel of low rank.
DENSE_ROWS = 4000
MAX_RANK = 2000


class Features(NamedTuple):
    """Products with Φ `[n, r]`, and `normal(scale)`, which gives x ↦ (1 + Φᵀ diag(scale) Φ)⁻¹ x."""

    size: int
    apply: Callable[[np.ndarray], np.ndarray]
    transpose: Callable[[np.ndarray], np.ndarray]
    normal: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]


def rbf(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], gamma: float) -> Float[np.ndarray, "n m"]:
    """exp(−γ ‖x − y‖²) of all pairs."""
    squares = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return np.exp(-gamma * np.maximum(squares, 0))


def line_features(x: Float[np.ndarray, " n"], gamma: float) -> Features:
    """Gaussian bumps of half the kernel's variance on a regular grid: exact to 1e-13, whatever the range.

    exp(−(x − y)²) = 2/√π ∫ exp(−2 (x − t)²) exp(−2 (y − t)²) dt, and the trapezoidal rule converges like
    exp(−π² / 4h²) in its step h. A row touches 2 · REACH bumps only, so normal equations are banded: n rows cost n · WIDTH²
    an iteration. Empty stretches of the line take no columns.
    """
    place = np.asarray(x) * np.sqrt(gamma) / STEP
    order = np.argsort(place, kind="stable")
    occupied, first = np.unique(np.floor(place[order] / CELL), return_index=True)
    # Cells two apart share no bump: a longer gap is as good as two.
    starts = CELL * np.concatenate([[0], np.cumsum(np.minimum(np.diff(occupied), 2))]).astype(int)
    size = int(starts[-1]) + WIDTH
    bumps = np.arange(-REACH, CELL + REACH)
    height = np.sqrt(2 * STEP / np.sqrt(np.pi))
    blocks = []
    for cell, start, rows in zip(occupied, starts, np.split(order, first[1:])):
        for piece in np.split(rows, range(PIECE, len(rows), PIECE)):
            inside = place[piece] - cell * CELL
            block = height * np.exp(-2 * (STEP * (inside[:, None] - bumps)) ** 2)
            blocks.append((piece, slice(start, start + WIDTH), block))
    row, column = np.tril_indices(WIDTH)

    def apply(w):
        values = np.empty(len(place))
        for rows, columns, block in blocks:
            values[rows] = block @ w[columns]
        return values

    def transpose(v):
        w = np.zeros(size)
        for rows, columns, block in blocks:
            w[columns] += block.T @ v[rows]
        return w

    def normal(scale):
        band = np.zeros((WIDTH, size))
        for rows, columns, block in blocks:
            weighted = block * np.sqrt(scale[rows])[:, None]
            band[row - column, columns.start + column] += (weighted.T @ weighted)[row, column]
        band[0] += 1 + _rounding(band[0])
        factor = cholesky_banded(band, lower=True, check_finite=False)
        return lambda right: cho_solve_banded((factor, True), right, check_finite=False)

    return Features(size, apply, transpose, normal)


def low_rank_features(x: Float[np.ndarray, "n d"], gamma: float, tolerance: float = 1e-7) -> Features:
    """Pivoted Cholesky of the kernel: every diagonal entry to the tolerance, in n r² operations.

    Raises:
      RequestError: more than 4,000 rows whose kernel has a rank beyond 2,000.
    """
    count, limit = len(x), len(x) if len(x) <= DENSE_ROWS else MAX_RANK
    rest, factor, rank = np.ones(count), np.zeros((count, 32)), 0
    while np.max(rest) > tolerance:
        if rank == limit:
            raise RequestError(
                f"the kernel of {count} distinct rows with {x.shape[1]} features has a rank beyond {limit}. Subsample both"
                f" sets, e.g. rows[jax.random.permutation(key, len(rows))[:{DENSE_ROWS // 2}]], to at most {DENSE_ROWS}"
                " in all, or lower gamma."
            )
        if rank == factor.shape[1]:
            factor = np.concatenate([factor, np.zeros_like(factor)], 1)
        pivot = int(np.argmax(rest))
        column = rbf(x, x[pivot : pivot + 1], gamma)[:, 0] - factor[:, :rank] @ factor[pivot, :rank]
        factor[:, rank] = column / np.sqrt(rest[pivot])
        rest -= factor[:, rank] ** 2
        rest[pivot] = 0.0
        rank += 1
    factor = np.ascontiguousarray(factor[:, :rank])

    def normal(scale):
        weighted = factor * np.sqrt(scale)[:, None]
        system = weighted.T @ weighted
        diagonal = np.diag(system)
        system[np.diag_indices(rank)] += 1 + _rounding(diagonal)
        triangle = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        return lambda right: cho_solve(triangle, right, check_finite=False)

    return Features(rank, lambda w: factor @ w, lambda v: factor.T @ v, normal)


def _rounding(diagonal):
    """Rows strictly inside their bounds get scales without limit near the optimum: what rounding leaves of zero."""
    return 1e-15 * np.max(diagonal)
