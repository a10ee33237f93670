"""An exactly solvable unlearning problem: a linear model on fixed features, trained by SGD on squared loss.

Notation: Φ_r [n_r, D] and Φ_u [n_u, D] are the features of the remaining and forgotten rows, Y their targets, W [D, C] the
weights. Everything below is a closed form in the dtype it is given; the identities hold to machine precision in x64
(`with jax.enable_x64(True): ...`). It is the ground truth for methods and for attacks: relabelled as `exact_relabel` says,
finetuning ends in the retrained weights themselves.

Source: Yang et al., MUSO: Achieving Exact Machine Unlearning in Over-Parameterized Regimes, arXiv 2410.08557; equation
numbers are this file's.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from clujax.errors import RequestError

Matrix = Float[Array | np.ndarray, "..."]
_EXACT = jax.lax.Precision.HIGHEST


def dot(a: Matrix, b: Matrix) -> Array:
    """A product in full precision: bfloat16 or TF32 passes would leave nothing of an exact identity."""
    return jnp.matmul(a, b, precision=_EXACT)


def sgd_limit(features: Matrix, targets: Matrix, initial: Matrix, ridge: float = 0.0) -> Float[Array, "D C"]:
    """Where SGD on squared loss ends: W₀ + Φᵀ(ΦΦᵀ + ε)⁻¹(Y − ΦW₀).                                          (1)

    Plain and momentum SGD stay in W₀ + rowspace(Φ), whatever the order of batches, and so end there when Φ has full row rank;
    weight decay, Adam or another W₀ end elsewhere. With n > D rows it is the least-squares solution nearest to W₀. With
    ridge ε > 0 it minimises ‖ΦW − Y‖² + ε‖W − W₀‖².

    Args:
      features: [n, D].
      targets: [n, C].
      initial: [D, C] weights W₀ at which training began.
      ridge: ε ≥ 0, in units of squared feature norm.

    Cost: n·D·min(n, D) for the Gram matrix and min(n, D)³/3 for its Cholesky factor.
    """
    rows, width = features.shape
    change = targets - dot(features, initial)
    if rows <= width:
        gram = dot(features, features.T) + ridge * jnp.eye(rows, dtype=features.dtype)
        return initial + dot(features.T, jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), change))
    gram = dot(features.T, features) + ridge * jnp.eye(width, dtype=features.dtype)
    return initial + jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), dot(features.T, change))


def exact_relabel(
    forget: Matrix, remain: Matrix, remain_targets: Matrix, initial: Matrix, ridge: float = 0.0
) -> Float[Array, "n_u C"]:
    """The targets that make finetuning exact: what the retrained model says of the forgotten rows, Φ_u W_r.    (2)

    With ridge > 0 the retrained model is that of the ridge towards W₀; a large ridge ends in Φ_u W₀, a bad teacher.

    Args:
      forget, remain: [n_u, D], [n_r, D] features.
      remain_targets: [n_r, C].
      initial: [D, C], the weights before training.
    """
    return dot(forget, sgd_limit(remain, remain_targets, initial, ridge))


def exact_relabel_from_weights(
    forget: Matrix, remain: Matrix, trained: Matrix, initial: Matrix, ridge: float = 0.0
) -> Float[Array, "n_u C"]:
    """The same targets without any label, from the weights before and after training: Φ_u[Π_r(W_p − W₀) + W₀].  (3)

    It holds where the trained model interpolates the remaining rows (Φ_r W_p = Y_r). With more remaining rows than features
    Π_r is the identity and nothing is unlearned: use `exact_relabel` there.

    Raises:
      RequestError: there are at least as many remaining rows as features, and no ridge.
    """
    if len(remain) >= remain.shape[1] and ridge == 0:
        raise RequestError(
            f"{len(remain)} remaining rows span all {remain.shape[1]} features: the label-free targets would be the"
            " trained model's own predictions. Use exact_relabel with the remaining labels."
        )
    return exact_relabel(forget, remain, dot(remain, trained), initial, ridge)


def relabel_gap(forget: Matrix, remain: Matrix, targets: Matrix, exact: Matrix) -> Float[Array, ""]:
    """Squared distance to the retrained weights that finetuning on `targets` ends at: tr Δᵀ(QQᵀ)⁻¹Δ.            (4)

    Q = Φ_u(I − Π_r) and Δ = targets − exact. Where Q has full row rank, only the exact targets have gap 0.
    """
    outside = outside_remaining(forget, remain)
    difference = targets - exact
    factor = jax.scipy.linalg.cho_factor(dot(outside, outside.T))
    return jnp.sum(difference * jax.scipy.linalg.cho_solve(factor, difference))


def outside_remaining(forget: Matrix, remain: Matrix) -> Float[Array, "n_u D"]:
    """Q = Φ_u(I − Π_r): the part of the forgotten features that no combination of remaining rows explains."""
    factor = jax.scipy.linalg.cho_factor(dot(remain, remain.T))
    return forget - dot(jax.scipy.linalg.cho_solve(factor, dot(remain, forget.T)).T, remain)


class Diagnosis(NamedTuple):
    """Whether exactness can be had, and is unique: ranks of Φ_r and Q, condition numbers of Φ_rΦ_rᵀ and QQᵀ."""

    remain_rank: Int[Array, ""]
    remain_condition: Float[Array, ""]
    outside_rank: Int[Array, ""]
    outside_condition: Float[Array, ""]


def diagnose(forget: Matrix, remain: Matrix) -> Diagnosis:
    """Ranks and condition numbers behind `exact_relabel` and `relabel_gap`. Cost: two singular value decompositions."""

    def examine(matrix):
        values = jnp.linalg.svd(matrix, compute_uv=False)
        cut = values[0] * max(matrix.shape) * jnp.finfo(matrix.dtype).eps
        return jnp.sum(values > cut), (values[0] / values[-1]) ** 2

    _, _, basis = jnp.linalg.svd(remain, full_matrices=False)
    outside = forget - dot(dot(forget, basis.T), basis)
    return Diagnosis(*examine(jnp.asarray(remain)), *examine(outside))


def check_features(forget: Matrix, remain: Matrix, remain_targets: Matrix, initial: Matrix, ridge: float = 0.0) -> None:
    """Refuse features on which the closed forms do not hold.

    Raises:
      RequestError: empty sets, shapes that do not fit (both are told), NaN or Inf, a negative ridge, or remaining features
        that depend on each other where there is no ridge.
    """
    for name, rows in (("forget", forget), ("remain", remain)):
        if np.ndim(rows) != 2 or len(rows) == 0:
            raise RequestError(f"{name} has shape {np.shape(rows)}; expected [n, D] features of at least one row.")
    if not ridge >= 0:
        raise RequestError(f"ridge is {ridge}; expected a number of at least 0.")
    expected = {"forget": (len(forget), remain.shape[1]), "remain_targets": (len(remain), initial.shape[-1])}
    expected |= {"initial": (remain.shape[1], initial.shape[-1])}
    for name, value in (("forget", forget), ("remain_targets", remain_targets), ("initial", initial)):
        if np.shape(value) != expected[name]:
            raise RequestError(
                f"{name} has shape {np.shape(value)}; expected {expected[name]}, to fit remain {np.shape(remain)}."
            )
    for name, value in (("forget", forget), ("remain", remain), ("remain_targets", remain_targets)):
        if not bool(jnp.all(jnp.isfinite(value))):
            raise RequestError(f"{name} has NaN or Inf; remove those rows.")
    rank = int(jnp.linalg.matrix_rank(remain))
    if ridge == 0 and rank < min(remain.shape):
        raise RequestError(
            f"the remaining features have rank {rank} of {min(remain.shape)}: some rows are combinations of others. Drop"
            " repeated rows, or give a small ridge such as 1e-8."
        )


class Descent(NamedTuple):
    """Where `cyclic_sgd` ended: weights [D, C], passes over the rows, and the residual ‖ΦW − Y‖."""

    weights: Float[Array, "D C"]
    epochs: Int[Array, ""]
    residual: Float[Array, ""]


def cyclic_sgd(
    features: Matrix,
    targets: Matrix,
    start: Matrix,
    *,
    tolerance: float = 1e-6,
    max_epochs: int = 1500,
    decay: float = 0.2,
    stop: Callable[[Array], Bool[Array, ""]] | None = None,
) -> Descent:
    """One row a step in order, with step (t + 1)^(−decay) inside each pass and gradient 2φ(φᵀw − y).

    Args:
      features: [n, D], rows of norm at most 1.
      targets: [n, C].
      start: [D, C].
      tolerance: stop when ‖ΦW − Y‖ falls below it.
      stop: `stop(weights)`, asked after each pass: the early stopping of inexact baselines.

    Source: the official linear experiment. Cost: `epochs`·n·D·C.
    """
    features, targets = jnp.asarray(features), jnp.asarray(targets)
    sizes = (jnp.arange(1, len(features) + 1, dtype=features.dtype)) ** -decay

    def row(weights, item):
        size, phi, target = item
        return weights - 2 * size * jnp.outer(phi, phi @ weights - target), None

    def residual(weights):
        return jnp.linalg.norm(dot(features, weights) - targets)

    def unfinished(state):
        weights, epochs, left = state
        halted = jnp.asarray(False) if stop is None else stop(weights)
        return (left > tolerance) & (epochs < max_epochs) & ~halted

    def epoch(state):
        weights, epochs, _ = state
        weights, _ = jax.lax.scan(row, weights, (sizes, features, targets))
        return weights, epochs + 1, residual(weights)

    start = jnp.asarray(start, features.dtype)
    return Descent(*jax.lax.while_loop(unfinished, epoch, (start, jnp.asarray(0), residual(start))))


def descend_features(
    features: Matrix, targets: Matrix, start: Matrix, tx: optax.GradientTransformation, steps: int
) -> Float[Array, "D C"]:
    """Full-batch descent on ½‖ΦW − Y‖² by any optax transformation; warns where the result left W₀ + rowspace(Φ).

    Weight decay and per-coordinate scaling (Adam) leave it, and then nothing here is exact any more.
    Cost: 2·`steps`·n·D·C.
    """
    features, start = jnp.asarray(features), jnp.asarray(start)

    def step(carry, _):
        weights, state = carry
        gradient = dot(features.T, dot(features, weights) - targets)
        updates, state = tx.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.jit(lambda start: jax.lax.scan(step, (start, tx.init(start)), length=steps))(start)
    moved = weights - start
    _, _, basis = jnp.linalg.svd(features, full_matrices=False)
    outside = float(jnp.linalg.norm(moved - dot(basis.T, dot(basis, moved))) / (jnp.linalg.norm(moved) + 1e-30))
    if outside > 1e4 * float(jnp.finfo(features.dtype).eps):
        warnings.warn(
            f"{100 * outside:.2g} % of the change lies outside the span of the rows: exactness does not hold. Use SGD"
            " without weight decay or per-coordinate scaling.",
            stacklevel=2,
        )
    return weights


def delete_rows(
    forget: Matrix, remain: Matrix, remain_targets: Matrix, trained: Matrix, initial: Matrix
) -> Float[Array, "D C"]:
    """Unlearn in closed form: the limit of finetuning `trained` on the remaining rows and the relabelled forgotten ones.

    Equal to the retrained weights (theorem: the system is consistent and its solution nearest to W_p is W_r), also where a
    forgotten row repeats a remaining one. Deletions may follow one another, always with the same `initial`.
    Cost: a singular value decomposition of all rows' features.
    """
    relabelled = exact_relabel(forget, remain, remain_targets, initial)
    both, targets = jnp.concatenate([remain, forget]), jnp.concatenate([remain_targets, relabelled])
    return trained + jnp.linalg.lstsq(both, targets - dot(both, trained))[0]
