"""Relabelling through the last linear layer: what a head refitted on the remaining rows says of the forgotten ones.

Features z(x) [h] of a network with a one appended, so that the head V is [h + 1, C] with its bias as the last row. The sums
G = Σ zzᵀ and B = Σ z tᵀ over the remaining rows are all that is needed: O(h² + hC) memory whatever the number of rows, and
they add up over batches and devices. Source: arXiv 2410.08557, in the form that also holds for more rows than features.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jaxtyping import Array, Float, PyTree

from clujax.errors import RequestError
from clujax.geometry import inverse_product
from clujax.unlearning.random_features import Matrix, dot


class Gram(NamedTuple):
    """Sufficient statistics of a linear head: G [h+1, h+1], B [h+1, C], number of rows."""

    features: Float[Array, "h h"]
    targets: Float[Array, "h C"]
    count: Float[Array, ""]


def gram_init(width: int, num_classes: int, dtype: Any = jnp.float32) -> Gram:
    """Sums over no rows; `width` counts the appended one."""
    return Gram(jnp.zeros((width, width), dtype), jnp.zeros((width, num_classes), dtype), jnp.zeros((), dtype))


def with_one(features: Matrix) -> Float[Array, "n h"]:
    """Features with a one appended, which carries the bias."""
    features = jnp.asarray(features)
    return jnp.concatenate([features, jnp.ones((len(features), 1), features.dtype)], axis=-1)


def gram_update(gram: Gram, features: Matrix, targets: Matrix, weight: Matrix | None = None) -> Gram:
    """Add rows [n, h+1] with targets [n, C]; rows of weight 0 are padding, a weight of −1 takes a row away again."""
    weighted = features if weight is None else features * jnp.asarray(weight, features.dtype)[:, None]
    count = len(features) if weight is None else jnp.sum(jnp.asarray(weight))
    return Gram(gram.features + dot(weighted.T, features), gram.targets + dot(weighted.T, targets), gram.count + count)


def absolute_ridge(gram: Gram, relative: float) -> Float[Array, ""]:
    """ρ · tr(G)/(h + 1): a ridge in units of the mean eigenvalue."""
    return relative * jnp.trace(gram.features) / len(gram.features)


def check_ridge(gram: Gram, ridge: float) -> None:
    """Warn where the solve would return rounding noise for labels: float32 with a ridge below 1e-6 of the mean eigenvalue.

    Raises:
      RequestError: a negative ridge, or features that hold NaN or Inf.
    """
    if not float(ridge) >= 0:
        raise RequestError(f"ridge is {ridge}; expected a number of at least 0.")
    if not bool(jnp.all(jnp.isfinite(gram.features))):
        raise RequestError("the features of the remaining rows have NaN or Inf; start from a finite network.")
    if gram.features.dtype == jnp.float32 and float(ridge) < float(absolute_ridge(gram, 1e-6)):
        warnings.warn(
            f"ridge {float(ridge):.1e} is below 1e-6 of the mean eigenvalue {float(absolute_ridge(gram, 1.0)):.1e} in"
            " float32: the labels would be rounding noise. Raise the ridge, or work in x64.",
            stacklevel=2,
        )


def refit_head(gram: Gram, initial: Matrix, ridge: float | Array) -> Float[Array, "h C"]:
    """The head nearest to `initial` that fits the remaining rows: V₀ + (G + ε)⁻¹(B − G V₀).

    The minimiser of ‖Z V − T‖² + ε‖V − V₀‖². As ε → 0 it interpolates or fits by least squares; as ε → ∞ it is V₀.
    Cost: (h + 1)³/3 by Cholesky; never an inverse.
    """
    system = gram.features + ridge * jnp.eye(len(gram.features), dtype=gram.features.dtype)
    factor = jax.scipy.linalg.cho_factor(system)
    return initial + jax.scipy.linalg.cho_solve(factor, gram.targets - dot(gram.features, initial))


def published_head(gram: Gram, initial: Matrix, trained: Matrix, ridge: float | Array) -> Float[Array, "h C"]:
    """The published label-free operator in exact form: Π_ε(V_p − V₀) + V₀ + V_p, with Π_ε = I − ε(G + ε)⁻¹.

    Labels are [z, 1] times it, minus the trained network's own logits. With more remaining rows than features Π_ε is
    nearly the identity, and the labels are nearly the trained network's predictions: offered for comparison only.
    """
    system = gram.features + ridge * jnp.eye(len(gram.features), dtype=gram.features.dtype)
    change = jnp.asarray(trained) - initial
    projected = change - ridge * jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), change)
    return projected + initial + trained


def head_of(params: PyTree, path: tuple[str, ...]) -> Float[Array, "h C"]:
    """The head as one matrix [h + 1, C]: kernel, and bias (zeros when there is none) as the last row.

    Raises:
      RequestError: there is no linear layer at `path`.
    """
    layer = params
    for name in path:
        if not hasattr(layer, "keys") or name not in layer:
            raise RequestError(
                f"params has no {'/'.join(path)}; the classifier's `head` must be the path of its last layer."
            )
        layer = layer[name]
    if not hasattr(layer, "keys") or "kernel" not in layer or layer["kernel"].ndim != 2:
        raise RequestError(f"{'/'.join(path)} is not a linear layer with a kernel [h, C].")
    kernel = layer["kernel"]
    bias = layer.get("bias", jnp.zeros(kernel.shape[1], kernel.dtype))
    return jnp.concatenate([kernel, bias[None]]).astype(jnp.promote_types(kernel.dtype, jnp.float32))


def with_head(params: PyTree, path: tuple[str, ...], head: Matrix) -> PyTree:
    """`params` with the head replaced by a matrix [h + 1, C]."""
    if not path:
        layer = dict(params) | {"kernel": jnp.asarray(head[:-1], params["kernel"].dtype)}
        return layer | ({"bias": jnp.asarray(head[-1], params["bias"].dtype)} if "bias" in params else {})
    return dict(params) | {path[0]: with_head(params[path[0]], path[1:], head)}


class Certificate(NamedTuple):
    """How far a linear head can be from the retrained one.

    Attributes:
      residual: Frobenius norm of the retraining objective's half gradient at the head, (G + ε)(V − V₀) − (B − G V₀),
        relative to ‖B − G V₀‖. Zero exactly at the retrained head.
      bound: largest possible ‖V − V_r‖, by strong convexity: the residual over the smallest eigenvalue of G + ε.
      relative_bound: the bound over ‖V‖.
      rows: remaining rows that it rests on.
    """

    residual: float
    bound: float
    relative_bound: float
    rows: int

    def __str__(self) -> str:
        return (
            f"Retraining on {self.rows:,} remaining rows would move this head by at most {self.bound:.1e}"
            f" ({self.relative_bound:.1e} of its norm); residual of the retraining equations {self.residual:.1e}."
        )


def certify_head(head: Matrix, features: Matrix, targets: Matrix, initial: Matrix, ridge: float) -> Certificate:
    """Prove from the remaining rows alone that a head is the retrained one.

    The head of a frozen network, trained to the minimum of ‖Z V − T‖² + ε‖V − V₀‖², has one answer; whoever holds the
    remaining rows can check it without the forgotten ones, without trusting who computed it.

    Args:
      head: [h + 1, C], the head after deletion.
      features: [n_r, h + 1] of the remaining rows (`with_one`).
      targets: [n_r, C].
      initial: [h + 1, C], V₀.
      ridge: ε > 0 of its training.

    Raises:
      RequestError: shapes that do not fit, NaN or Inf, or a ridge that is not positive.
    """
    if not ridge > 0:
        raise RequestError(
            f"ridge is {ridge}; a certificate needs a positive one (it bounds the curvature from below)."
        )
    if np.shape(head) != np.shape(initial) or np.shape(features)[1] != len(head) or len(features) != len(targets):
        raise RequestError(
            f"shapes do not fit: head {np.shape(head)}, initial {np.shape(initial)}, features {np.shape(features)},"
            f" targets {np.shape(targets)}."
        )
    gram = gram_update(gram_init(len(head), np.shape(targets)[1], jnp.asarray(head).dtype), features, targets)
    check_ridge(gram, ridge)
    right = gram.targets - dot(gram.features, initial)
    change = jnp.asarray(head) - initial
    left = float(jnp.linalg.norm(dot(gram.features, change) + ridge * change - right))
    curvature = ridge + max(float(jnp.linalg.eigvalsh(gram.features)[0]), 0.0)
    bound = left / curvature
    return Certificate(left / float(jnp.linalg.norm(right)), bound, bound / float(jnp.linalg.norm(head)), len(features))


def centred_targets(labels: Any, num_classes: int, dtype: Any = jnp.float32) -> Float[Array, "n C"]:
    """One-hot rows minus 1/C."""
    return jax.nn.one_hot(jnp.asarray(labels), num_classes, dtype=dtype) - 1 / num_classes


def tangent_relabel(
    apply: Callable[[PyTree, Any], Array],
    trained: PyTree,
    initial: PyTree,
    remain: Any,
    forget: Any,
    *,
    ridge: float,
    max_steps: int = 200,
    tolerance: float = 1e-8,
) -> Float[Array, "n_u C"]:
    """The label-free targets of the network linearised at `trained`: f_p(x_u) − J_u(I − Π_ε)(θ_p − θ₀).

    Π_ε = Jᵀ(JJᵀ + ε)⁻¹J over the remaining rows, by conjugate gradients on products with J and its transpose. Exact for
    models linear in their parameters; poor for networks that learned their features.

    Cost: 2·`max_steps` + 3 passes over the remaining rows.
    """
    change = jax.tree.map(jnp.subtract, trained, initial)

    def along(inputs, tangent):
        return jax.jvp(lambda params: apply(params, inputs), (trained,), (tangent,))[1]

    _, back = jax.vjp(lambda params: apply(params, remain), trained)
    solver = lineax.CG(rtol=tolerance, atol=tolerance, max_steps=max_steps)
    coefficients = inverse_product(
        lambda v: along(remain, back(v)[0]), along(remain, change), damping=ridge, solver=solver
    )
    unexplained = jax.tree.map(jnp.subtract, change, back(coefficients)[0])
    return apply(trained, forget) - along(forget, unexplained)
