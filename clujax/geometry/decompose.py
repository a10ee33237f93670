"""The parts of an adaptation's gradient: what steepest descent asks for the sake of each set of rows.

Steepest descent of the divergence to the retrained network, under the Euclidean metric, moves along

    −α { p_f · H_f H_r⁻¹ [−∇L_f(θ; ε)]  +  p_r · ∇L_r(θ) }

(saliency S = H_f H_r⁻¹, weighted forgetting ascent F, remaining descent R). Under the metric of the remaining rows' own
output divergence, R disappears and the step is preconditioned by H_r⁻¹: `remain_newton`.
Source: Huang et al. 2024, Propositions 1 and 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.geometry.products import gnvp, hvp, inverse_hvp, inverse_product
from clujax.geometry.weights import cosine, norm


class Parts(NamedTuple):
    """Trees like the parameters; descend along them.

    Attributes:
      forget: −∇L_forget, the forgetting ascent (F).
      remain: ∇L_remain, the remaining descent (R).
      salient: H_forget (H_remain + damping)⁻¹ applied to `forget` (S·F), the first term of Proposition 1.
      newton: (H_remain + damping)⁻¹ applied to `forget`, the remain-preserving direction without saliency.
    """

    forget: PyTree
    remain: PyTree
    salient: PyTree
    newton: PyTree


def decompose(
    forget_loss: Callable[[PyTree], jax.Array],
    remain_loss: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    damping: float,
    solver: Any = None,
    reference: PyTree | None = None,
    curvature_loss: Callable[[PyTree], jax.Array] | None = None,
) -> Parts:
    """The gradient's parts at `params` by Hessian products and CG.

    Args:
      forget_loss, remain_loss: scalar losses of the parameters (weights ε and sums or means are the caller's).
      params: θ_t.
      damping: added to the remaining Hessian; it must make it positive definite.
      solver: lineax solver of the inverse; CG by default.
      reference: where the Hessians of the saliency are taken, θ_* of the paper; `params` when None.
      curvature_loss: whose Hessian is H_forget; `forget_loss` when None. Give the plain loss where `forget_loss` has
        weights ε: the proposition weighs the gradient, not the Hessian.

    Cost: two gradients, two CG solves of one hvp an iteration, one hvp.
    """
    at = params if reference is None else reference
    forget = jax.tree.map(jnp.negative, jax.grad(forget_loss)(params))
    solved = inverse_hvp(remain_loss, at, forget, damping=damping, solver=solver)
    newton = solved if reference is None else remain_newton(remain_loss, params, forget, damping=damping, solver=solver)
    return Parts(forget, jax.grad(remain_loss)(params), hvp(curvature_loss or forget_loss, at, solved), newton)


def report(parts: tuple) -> dict[str, jax.Array]:
    """Norms `norm/name` and pairwise cosines `cosine/a·b` of any NamedTuple of parts."""
    named = list(parts._asdict().items())
    norms = {f"norm/{name}": norm(tree) for name, tree in named}
    pairs = [(a, b) for i, a in enumerate(named) for b in named[i + 1 :]]
    return norms | {f"cosine/{a[0]}·{b[0]}": cosine(a[1], b[1]) for a, b in pairs}


def remain_newton(
    remain_loss: Callable[[PyTree], jax.Array],
    params: PyTree,
    gradient: PyTree,
    *,
    damping: float | jax.Array,
    solver: Any = None,
    batches: PyTree | None = None,
) -> PyTree:
    """(H_remain + damping)⁻¹ gradient: the exact step that a fast–slow cycle approximates.

    On a quadratic, T repairs of rate η after a forget step of rate β filter the gradient by β(I − ηH)ᵀ, close to
    β (I + ηT·H)⁻¹: a Newton step with damping 1/(ηT).

    Cost: one hvp an iteration of CG.
    Source: Huang et al. 2024, Propositions 2 and 3.
    """
    return inverse_hvp(remain_loss, params, gradient, damping=damping, solver=solver, batches=batches)


def remain_gauss_newton(
    outputs_fn: Callable,
    loss_of_outputs: Callable,
    params: PyTree,
    gradient: PyTree,
    *,
    damping: float | jax.Array,
    solver: Any = None,
) -> PyTree:
    """`remain_newton` with the Gauss–Newton matrix, positive semi-definite anywhere: for networks away from a minimum."""
    return inverse_product(
        lambda v: gnvp(outputs_fn, loss_of_outputs, params, v), gradient, damping=damping, solver=solver
    )
