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
import numpy as np
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

    return _mean_over(product, batches, vector)


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

    return _mean_over(product, batches, vector)


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

    return _mean_over(product, batches, vector)


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
      solver: a lineax solver; by default `lineax.CG` to 1e-10, in float32 1e-5, of the vector, 1000 steps at most.

    Returns:
      A tree like `vector`.

    Raises:
      ValueError: damping is negative.

    Cost: one `hvp` an iteration of the solver, and one more every tenth.
    """
    if batches is None:  # gradient taken once, only its derivative at each iteration
        product = jax.linearize(jax.grad(loss), params)[1]
    else:
        product = lambda v: hvp(loss, params, v, batches)
    return inverse_product(product, vector, damping=damping, solver=solver)


def inverse_product(
    product: Callable[[PyTree], PyTree], vector: PyTree, *, damping: float | jax.Array, solver: Any = None
) -> PyTree:
    """(A + damping·I)⁻¹ vector for any symmetric positive semi-definite `product(v) = A v`.

    The solver sees `vector` scaled to a root mean square of 1, so its tolerances are relative and a gradient may be as
    small as it likes; it works in float32 or wider. What is found within `max_steps` is returned, converged or not.

    Args:
      product: `product(v) -> A v`, trees like `vector`.
      vector: right-hand side.
      damping, solver: as for `inverse_hvp`.

    Raises:
      ValueError: damping is negative.

    Example:
      >>> inverse_product(lambda v: 3.0 * v, jnp.array([1.0, 2.0]), damping=1.0)
      Array([0.25, 0.5 ], dtype=float32)
    """
    if not isinstance(damping, jax.core.Tracer) and not np.asarray(damping) >= 0:
        raise ValueError(f"damping is {damping}; expected a number of at least 0.")
    wide = jax.tree.map(lambda leaf: leaf.astype(_wide(leaf)), vector)
    leaves = jax.tree.leaves(wide)
    size, eps = sum(leaf.size for leaf in leaves), max(jnp.finfo(leaf.dtype).eps for leaf in leaves)
    # lineax's CG takes curvature below 100·eps·size along a direction for a breakdown and returns NaN. A float32 network of
    # 10^5 weights is below that everywhere, so the matrix is scaled up until damping alone is above it.
    stretch = jnp.maximum(1.0, 1000 * eps * size / jnp.where(damping > 0, damping, jnp.inf))
    length = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves) / size)
    unit = jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1.0), wide)

    def damped(v):
        narrow = jax.tree.map(lambda a, like: a.astype(like.dtype), v, vector)
        return jax.tree.map(lambda a, b: ((a + damping * b) * stretch).astype(b.dtype), product(narrow), v)

    operator = lineax.FunctionLinearOperator(
        damped, jax.eval_shape(lambda: unit), tags=lineax.positive_semidefinite_tag
    )
    if solver is None:
        tolerance = max(100 * float(eps), 1e-10)
        solver = lineax.CG(rtol=tolerance, atol=tolerance, max_steps=min(10 * size, 1000))
    solved = lineax.linear_solve(operator, unit, solver, throw=False).value
    return jax.tree.map(lambda leaf, like: (leaf * (stretch * length)).astype(like.dtype), solved, vector)


def _mean_over(product: Callable, batches: PyTree | None, like: PyTree) -> PyTree:
    """product() without batches, else the mean of product(batch) over their leading axis, one at a time."""
    if batches is None:
        return product()
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(batches)}
    if len(counts) != 1 or counts & {0, None}:
        raise ValueError(f"batches must be stacked on one leading axis of K >= 1 chunks; leading sizes: {counts}.")
    count = counts.pop()

    def add(total, batch):
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, product(batch)), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _wide(leaf)), like)
    total, _ = jax.lax.scan(add, zero, batches)
    return jax.tree.map(lambda leaf, given: (leaf / count).astype(given.dtype), total, like)


def _wide(leaf):
    return jnp.promote_types(leaf.dtype, jnp.float32)
