"""Curvature times a vector, without the matrix: Hessian, Gauss–Newton, Fisher, and damped inverses by CG.

Each takes a scalar loss or an outputs function of one parameter tree, or, with `batches`, of (params, batch): a tree whose
leaves have a leading axis of K chunks. The product is then the mean over chunks, taken one chunk at a time, so that memory
is that of one chunk. All are linear in `vector`, and work under jit, vmap and sharded parameters or batches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax
from jaxtyping import PyTree


def hvp(loss: Callable, params: PyTree, vector: PyTree, batches: PyTree | None = None) -> PyTree:
    """Hessian of the loss times a vector, forward over reverse.

    Args:
      loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` with `batches`.
      params: where the Hessian is taken.
      vector: tree like `params`.
      batches: None, or chunks stacked on a leading axis, over which the mean is taken.

    Returns:
      H·vector, a tree like `params`.

    Cost: about 2 to 3 gradients.
    Source: Pearlmutter 1994.

    Example:
      >>> hvp(lambda w: jnp.sum(w**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]))
      Array([ 6., 12.], dtype=float32)
    """

    def product(*batch):
        return jax.jvp(jax.grad(lambda p: loss(p, *batch)), (params,), (vector,))[1]

    return _mean_over(product, batches)


def gnvp(
    outputs_fn: Callable, loss_of_outputs: Callable, params: PyTree, vector: PyTree, batches: PyTree | None = None
) -> PyTree:
    """Gauss–Newton matrix Jᵀ H_out J times a vector; positive semi-definite for a convex loss of outputs.

    Args:
      outputs_fn: `outputs_fn(params) -> outputs` (or `(params, batch)`), any shape.
      loss_of_outputs: `loss(outputs) -> scalar` (or `(outputs, batch)`), the mean over rows as usual.
      params, vector, batches: as for `hvp`.

    Cost: one forward derivative, one reverse pass: about 2 gradients.
    Source: Schraudolph 2002.
    """

    def product(*batch):
        outputs, tangent = jax.jvp(lambda p: outputs_fn(p, *batch), (params,), (vector,))
        curved = jax.jvp(jax.grad(lambda z: loss_of_outputs(z, *batch)), (outputs,), (tangent,))[1]
        return jax.vjp(lambda p: outputs_fn(p, *batch), params)[1](curved)[0]

    return _mean_over(product, batches)


def fvp(
    outputs_fn: Callable,
    params: PyTree,
    vector: PyTree,
    batches: PyTree | None = None,
    *,
    curvature: Callable | None = None,
) -> PyTree:
    """True Fisher matrix, mean over rows, times a vector.

    Args:
      outputs_fn: `outputs_fn(params) -> [B, C]` logits (or `(params, batch)`).
      params, vector, batches: as for `hvp`.
      curvature: Fisher of one row's distribution in its outputs, times a tangent: `categorical` (the default) or
        `gaussian`; any `f(outputs, tangent) -> like outputs` serves.

    Cost: about 2 gradients.
    """
    curvature = curvature or categorical

    def product(*batch):
        outputs, tangent = jax.jvp(lambda p: outputs_fn(p, *batch), (params,), (vector,))
        rows = outputs.size // outputs.shape[-1]
        return jax.vjp(lambda p: outputs_fn(p, *batch), params)[1](curvature(outputs, tangent) / rows)[0]

    return _mean_over(product, batches)


def categorical(logits, tangent):
    """(diag p − p pᵀ) tangent, the Fisher of a categorical distribution in its logits."""
    p = jax.nn.softmax(logits)
    return p * (tangent - jnp.sum(p * tangent, -1, keepdims=True))


def gaussian(mean, tangent):
    """The Fisher of a Gaussian of unit variance in its mean: the identity."""
    return tangent


def inverse_hvp(
    loss: Callable,
    params: PyTree,
    vector: PyTree,
    *,
    damping: float | jax.Array,
    solver: Any = None,
    batches: PyTree | None = None,
) -> PyTree:
    """(H + damping·I)⁻¹ vector by conjugate gradients on Hessian products.

    The damped Hessian must be positive definite: away from a minimum raise `damping`, or solve with
    `inverse_product(lambda v: gnvp(...), ...)`, whose matrix has no negative eigenvalues.

    Args:
      loss, params, vector, batches: as for `hvp`.
      damping: added to every eigenvalue, ≥ 0.
      solver: a lineax solver; `lineax.CG(rtol=1e-6, atol=1e-6)` by default.

    Cost: one `hvp` an iteration of the solver, at most as many as there are parameters.
    """
    return inverse_product(lambda v: hvp(loss, params, v, batches), vector, damping=damping, solver=solver)


def inverse_product(
    product: Callable[[PyTree], PyTree], vector: PyTree, *, damping: float | jax.Array, solver: Any = None
) -> PyTree:
    """(A + damping·I)⁻¹ vector for any symmetric positive semi-definite `product(v) = A v`.

    Raises:
      ValueError: damping is negative.
    """
    if not isinstance(damping, jax.core.Tracer) and not damping >= 0:
        raise ValueError(f"damping is {damping}; expected a number of at least 0.")
    # lineax's CG takes curvature below 100·eps·(number of entries) along a direction for a breakdown and returns NaN. A
    # float32 network of 10^5 weights is below that everywhere, so both sides are scaled until damping alone is above it.
    leaves = jax.tree.leaves(vector)
    tiny = 100 * max(jnp.finfo(leaf.dtype).eps for leaf in leaves) * max(sum(leaf.size for leaf in leaves), 1)
    scale = jnp.where(damping > 0, 10 * tiny / jnp.where(damping > 0, damping, 1.0), 1.0)
    operator = lineax.FunctionLinearOperator(
        lambda v: jax.tree.map(lambda a, b: ((a + damping * b) * scale).astype(b.dtype), product(v), v),
        jax.eval_shape(lambda: vector),
        tags=lineax.positive_semidefinite_tag,
    )
    solver = solver or lineax.CG(rtol=1e-6, atol=1e-6)
    scaled = jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), vector)
    return lineax.linear_solve(operator, scaled, solver, throw=False).value


def _mean_over(product: Callable, batches: PyTree | None) -> PyTree:
    """product() without batches, else the mean of product(batch) over their leading axis, one at a time."""
    if batches is None:
        return product()
    leaves = jax.tree.leaves(batches)
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(counts) != 1 or counts & {0, None}:
        raise ValueError(f"batches must be stacked on one leading axis of K >= 1 chunks; leading sizes: {counts}.")
    count = counts.pop()

    def add(total, batch):
        return jax.tree.map(jnp.add, total, product(batch)), None

    first = jax.tree.map(lambda leaf: leaf[0], batches)
    rest = jax.tree.map(lambda leaf: leaf[1:], batches)
    total, _ = jax.lax.scan(add, product(first), rest)
    return jax.tree.map(lambda leaf: leaf / count, total)
