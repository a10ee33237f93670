"""Support-vector attacks: an RBF machine tells training rows from unseen ones by their scores, then judges the forget rows.

The dual is solved on explicit features of the kernel by an interior-point method in float64 on the host: no n × n matrix,
nothing to compile, and the precision does not depend on jax's.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from clujax.attacks.checks import check_probabilities, check_rows
from clujax.attacks.interior_point import kernel_dual
from clujax.attacks.rbf_features import line_features, low_rank_features, rbf
from clujax.errors import RequestError

# One score per row [n], or features [n, d].
Features = Float[Array | np.ndarray, "_n *_d"]


class SVC(NamedTuple):
    """A fitted machine: f(x) = Σ_j coefficients_j exp(−γ ‖x − support_j‖²) + bias, a member where f > 0."""

    support: Float[np.ndarray, "s d"]
    coefficients: Float[np.ndarray, " s"]
    bias: float
    gamma: float


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

    Cost: some 20 iterations of n · 44² operations for one score, whatever its range, and of n r² for vectors (r about 300
    for the probabilities of 10 classes). Where other work shares the cores, OPENBLAS_NUM_THREADS=1 can make vectors several
    times faster: threads of BLAS wait for one another by spinning.
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
    features = line_features(x[:, 0], gamma) if x.shape[1] == 1 else low_rank_features(x, gamma)
    dual, bias = kernel_dual(features, sign, bound)
    kept = dual > 1e-10 * bound
    return SVC(x[kept], (dual * sign)[kept], bias, float(gamma))


def decide(svc: SVC, rows: Features) -> Float[np.ndarray, " _n"]:
    """The value f of each row, positive for a member.

    Raises:
      RequestError: another number of features than the machine was fitted on.

    Cost: one pass over rows and support for one score; all pairs of them for vectors.
    """
    (x,) = _features(rows=rows)
    if x.shape[1] != svc.support.shape[1]:
        raise RequestError(f"rows have {x.shape[1]} features; the machine was fitted on {svc.support.shape[1]}.")
    if x.shape[1] == 1:
        features = line_features(np.concatenate([svc.support[:, 0], x[:, 0]]), svc.gamma)
        on_support = np.concatenate([svc.coefficients, np.zeros(len(x))])
        return features.apply(features.transpose(on_support))[len(svc.support) :] + svc.bias
    size = max(2**24 // len(svc.support), 1)
    pieces = [x[first : first + size] for first in range(0, len(x), size)]
    return np.concatenate([rbf(piece, svc.support, svc.gamma) @ svc.coefficients for piece in pieces]) + svc.bias


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
