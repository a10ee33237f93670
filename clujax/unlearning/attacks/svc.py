"""Support-vector attacks: an RBF machine tells training rows from unseen ones by their scores, then judges the forget rows.

The dual is solved on a low-rank factor of the kernel (scores on a line need some ten columns) by an interior-point
method in float64 on the host: no n × n matrix, nothing to compile, and the precision does not depend on jax's.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from clujax.errors import RequestError
from clujax.unlearning.attacks.checks import check_probabilities, check_rows
from clujax.unlearning.attacks.interior_point import kernel_dual

# One score per row [n], or features [n, d].
Features = Float[Array | np.ndarray, "_n *_d"]

# With more rows than this the kernel must have a low rank.
DENSE_ROWS = 4000
MAX_RANK = 2000


class SVC(NamedTuple):
    """A fitted machine: f(x) = Σ_j coefficients_j exp(−γ ‖x − support_j‖²) + bias, a member where f > 0."""

    support: Float[np.ndarray, "s d"]
    coefficients: Float[np.ndarray, " s"]
    bias: float
    gamma: float
    basis: Float[np.ndarray, "r d"]
    triangle: Float[np.ndarray, "r r"]
    basis_coefficients: Float[np.ndarray, " r"]


def fit_svc(members: Features, strangers: Features, *, penalty: float = 3.0, gamma: float | None = None) -> SVC:
    """The RBF support-vector classifier of members (+1) against strangers (−1), any numbers of each.

    Agrees with scikit-learn's `SVC(C=penalty, gamma="auto")` solved to convergence. Equal rows of one kind are merged into
    one of that many times the penalty, which is the same problem.

    Args:
      penalty: C, the bound on each row's dual coefficient.
      gamma: of the kernel exp(−γ ‖x − x'‖²); None is 1 / (number of features).

    Raises:
      ValueError: penalty or gamma is not positive.
      RequestError: a set is empty, not finite or of another number of features; or the kernel of more than 4,000 rows
        has a rank beyond 2,000.

    Cost: n r² an iteration, some 20 of them, with r about 10 for a probability, 15 for an entropy, 600 for probability
    vectors of 10 classes.
    """
    members, strangers = _features(members=members, strangers=strangers)
    gamma = 1.0 / members.shape[1] if gamma is None else gamma
    for name, value in (("penalty", penalty), ("gamma", gamma)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected a positive number.")
    rows, counts, signs = [], [], []
    for part, sign in ((members, 1.0), (strangers, -1.0)):
        distinct, count = np.unique(part, axis=0, return_counts=True)
        rows.append(distinct)
        counts.append(count)
        signs.append(np.full(len(distinct), sign))
    x, sign, bound = np.concatenate(rows), np.concatenate(signs), penalty * np.concatenate(counts)
    factor, pivots = _pivoted_cholesky(x, gamma, 1e-12 if x.shape[1] == 1 else 1e-8)
    dual, bias = kernel_dual(factor, sign, bound)
    coefficients = dual * sign
    kept = dual > 1e-10 * bound
    triangle = factor[pivots]
    on_basis = np.linalg.solve(triangle.T, factor.T @ coefficients)
    return SVC(x[kept], coefficients[kept], bias, float(gamma), x[pivots], triangle, on_basis)


def decide(svc: SVC, rows: Features) -> Float[np.ndarray, " _n"]:
    """The value f of each row, positive for a member.

    Rows that the factor of the kernel spans are read off it; the others are summed over all support rows.
    """
    (x,) = _features(rows=rows)
    if x.shape[1] != svc.basis.shape[1]:
        raise RequestError(f"rows have {x.shape[1]} features; the machine was fitted on {svc.basis.shape[1]}.")
    distinct, where = np.unique(x, axis=0, return_inverse=True)
    values = np.empty(len(distinct))
    for part in _chunks(len(distinct), 2**24 // max(len(svc.basis), 1)):
        kernel = _rbf(distinct[part], svc.basis, svc.gamma)
        values[part] = kernel @ svc.basis_coefficients
        rest = 1 - np.sum(np.linalg.solve(svc.triangle, kernel.T) ** 2, 0)
        # Cauchy–Schwarz in the kernel's space: the error is at most Σ |coefficient| √(rest here · rest of a support row).
        width = 1e-6 if x.shape[1] == 1 else 1e-4
        far = np.flatnonzero(np.sqrt(np.maximum(rest, 0)) * width * np.sum(np.abs(svc.coefficients)) > 1e-5)
        for piece in _chunks(len(far), 2**24 // max(len(svc.support), 1)):
            chosen = np.arange(part.start, part.stop)[far[piece]]
            values[chosen] = _rbf(distinct[chosen], svc.support, svc.gamma) @ svc.coefficients
    return (values + svc.bias)[where.reshape(-1)]


def svc_attack(
    members: Features,
    strangers: Features,
    forget: Features,
    key: PRNGKeyArray | None = None,
    *,
    official: bool = False,
    penalty: float = 3.0,
) -> float:
    """Per cent of forget rows called NON-members: "MIA efficacy" of the SalUn family (on `confidence` in the papers).

    The opposite direction of `entropy_attack`. Read against the same number for a retrained network.

    Args:
      members: scores `[n]` of remaining training rows, or probability vectors `[n, C]`.
      strangers: of unseen rows; the larger of the two sets is subsampled to the smaller.
      key: of that subsample; needed where the numbers differ.
      official: take the first rows in stored order instead, as the published code does of the members.

    Raises:
      RequestError: as `fit_svc`; rows that do not sum to 1 where vectors are given; unequal numbers and no key.

    Source: Jia et al. 2023 (Sparse), Fan et al. 2024 (SalUn).
    """
    sets = _check_vectors(members=members, strangers=strangers, forget=forget)
    members, strangers = _balance(sets["members"], sets["strangers"], key, official)
    return 100.0 * float(np.mean(decide(fit_svc(members, strangers, penalty=penalty), sets["forget"]) <= 0))


def training_privacy(
    members: Features,
    strangers: Features,
    key: PRNGKeyArray | None = None,
    *,
    official: bool = False,
    penalty: float = 3.0,
) -> float:
    """Mean per cent of right calls on the other halves of members and strangers, fitted on the first halves; 50 is ideal.

    Args:
      key: permutes both sets first (and subsamples the larger one); None keeps their order and needs equal numbers.
      official: the first half of the strangers' number is fitted on, all other members are read on, in stored order.

    Source: Jia et al. 2023 (Sparse).
    """
    sets = _check_vectors(members=members, strangers=strangers)
    members, strangers = sets["members"], sets["strangers"]
    if not official:
        members, strangers = _balance(members, strangers, key, False)
        if key is not None:
            orders = jax.random.split(jax.random.fold_in(key, 1))
            members, strangers = (
                rows[np.asarray(jax.random.permutation(order, len(rows)))]
                for rows, order in zip((members, strangers), orders)
            )
    half = len(strangers) // 2
    if half == 0 or len(members) <= half:
        raise RequestError(
            f"{len(members)} members and {len(strangers)} strangers: half of the strangers' number must be left of both"
            " to read the attack on."
        )
    svc = fit_svc(members[:half], strangers[:half], penalty=penalty)
    right = np.mean(decide(svc, members[half:]) > 0) + np.mean(decide(svc, strangers[half:]) <= 0)
    return 50.0 * float(right)


def _features(**sets):
    """Float64 `[n, d]` of each set, checked."""
    check_rows(**sets)
    found = []
    for name, rows in sets.items():
        rows = np.asarray(rows, np.float64)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2:
            raise RequestError(f"{name} has shape {rows.shape}; expected scores [n] or features [n, d].")
        if not np.isfinite(rows).all():
            raise RequestError(f"{name} has {np.sum(~np.isfinite(rows))} values that are not finite.")
        found.append(rows)
    if len({rows.shape[1] for rows in found}) > 1:
        raise RequestError(f"features differ in number: { {n: r.shape for n, r in zip(sets, found)} }.")
    return found


def _check_vectors(**sets):
    """The sets as arrays; a second axis means probability vectors."""
    check_rows(**sets)
    sets = {name: np.asarray(rows) for name, rows in sets.items()}
    check_probabilities(**{name: rows for name, rows in sets.items() if rows.ndim == 2})
    return sets


def _balance(members, strangers, key, official):
    """As many members as strangers."""
    count = min(len(members), len(strangers))
    if official or len(members) == len(strangers):
        return members[:count], strangers[:count]
    if key is None:
        raise RequestError(
            f"{len(members)} members and {len(strangers)} strangers: give a key to subsample the larger set, or"
            " official=True to take its first rows."
        )
    draw = lambda rows: rows[np.asarray(jax.random.permutation(key, len(rows)))[:count]] if len(rows) > count else rows
    return draw(members), draw(strangers)


def _rbf(x, y, gamma):
    """exp(−γ ‖x − y‖²) of all pairs."""
    if x.shape[1] == 1:
        return np.exp(-gamma * (x - y.T) ** 2)
    squares = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return np.exp(-gamma * np.maximum(squares, 0))


def _pivoted_cholesky(x, gamma, tolerance):
    """`factor [n, r]`, `pivots [r]` with K ≈ factor factorᵀ, every diagonal entry to the tolerance."""
    count, limit = len(x), len(x) if len(x) <= DENSE_ROWS else MAX_RANK
    rest, factor, pivots = np.ones(count), np.zeros((count, 32)), []
    while np.max(rest) > tolerance:
        pivot, rank = int(np.argmax(rest)), len(pivots)
        if rank == limit:
            raise RequestError(
                f"the kernel of {count} distinct rows with {x.shape[1]} features has a rank beyond {limit}. Subsample both"
                f" sets, e.g. rows[jax.random.permutation(key, len(rows))[:{DENSE_ROWS // 2}]], to at most {DENSE_ROWS}"
                " in all, or lower gamma."
            )
        if rank == factor.shape[1]:
            factor = np.concatenate([factor, np.zeros_like(factor)], 1)
        column = _rbf(x, x[pivot : pivot + 1], gamma)[:, 0] - factor[:, :rank] @ factor[pivot, :rank]
        factor[:, rank] = column / np.sqrt(rest[pivot])
        rest -= factor[:, rank] ** 2
        rest[pivot] = 0.0
        pivots.append(pivot)
    return factor[:, : len(pivots)], np.array(pivots, int)


def _chunks(count, size):
    """Slices of at most `size` rows."""
    size = max(size, 1)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
