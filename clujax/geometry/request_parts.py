"""The parts of the gradient of a request that learns new rows, forgets old ones and keeps the remaining.

Let θ_* be trained on the remaining and the learned rows, and θ minimise L_r + L_l(·; ε_l) + L_f(·; ε_f), a point between the
network before the request (ε_l = 0, ε_f = 1) and θ_* (ε_l = 1, ε_f = 0). Stationarity of both gives

    Δ = θ − θ_* ≈ (H_r + H_l)⁻¹ [∇L_l(θ; 1−ε_l) − ∇L_f(θ; ε_f)]

and steepest descent of the divergences to θ_*, each weighed by its share p of the rows, moves along

    −α { p_rl · [∇L_r(θ) + ∇L_l(θ)]  +  p_f · H_f Δ }                            (Euclidean metric)
    −[(p_r + 1/α) H_r]⁻¹ [p_l · H_l Δ + p_f · H_f Δ]                             (metric of the remaining rows)

Without rows to learn these are the parts of `clujax.geometry.decompose`, without rows to forget a joint descent.
Source: Huang et al. 2025, Proposition 1; the second line by the argument of Huang et al. 2024, Proposition 2.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, ScalarLike

from clujax.geometry.products import hvp, inverse_hvp

Loss = Callable[[PyTree], jax.Array]


class Shares(NamedTuple):
    """Rows of each set, or their shares p of all; only the ratios count, and not those of an absent set."""

    learn: ScalarLike
    forget: ScalarLike
    remain: ScalarLike


class RequestParts(NamedTuple):
    """Trees like the parameters; descend along them. Those of an absent set are zero.

    Attributes:
      learn: ∇L_learn, the learning descent.
      forget: −∇L_forget, the forgetting ascent.
      remain: ∇L_remain, the remaining descent.
      salient: H_forget Δ, the saliency H_forget (H_remain + H_learn + damping)⁻¹ applied to the learning push and `forget`.
      newton: (H_remain + damping)⁻¹ applied to the learning push and `forget`: what a fast–slow cycle approximates.
      preserving: [(p_r + 1/α)(H_remain + damping)]⁻¹ (p_l H_learn Δ + p_f H_forget Δ), the remain-preserving step.
    """

    learn: PyTree
    forget: PyTree
    remain: PyTree
    salient: PyTree
    newton: PyTree
    preserving: PyTree


def request_parts(
    learn_loss: Loss | None,
    forget_loss: Loss | None,
    remain_loss: Loss,
    params: PyTree,
    *,
    damping: float | jax.Array,
    shares: Shares,
    rate: ScalarLike = math.inf,
    reference: PyTree | None = None,
    plain_learn_loss: Loss | None = None,
    plain_forget_loss: Loss | None = None,
    solver: Any = None,
) -> RequestParts:
    """The parts of a request's gradient at `params` by Hessian products and CG, for models small enough for both.

    Args:
      learn_loss: scalar L_l(·; 1−ε_l), whose gradient is the learning push; None with nothing to learn.
      forget_loss: scalar L_f(·; ε_f); None with nothing to forget.
      remain_loss: scalar L_r. All three are sums over rows, or are all divided by one number, since Δ adds their Hessians.
      params: θ.
      damping: added to the Hessians that are inverted; it must make them positive definite.
      shares: the numbers of rows. They weigh `preserving` alone: the other parts are terms to be weighed by the caller.
      rate: α of `preserving`, which approaches a full step as α grows.
      reference: θ_*, where the Hessians of Δ, of learn and of forget are taken; `params` when None.
      plain_learn_loss, plain_forget_loss: without the weights ε, where the others have them: their Hessians are H_l and
        H_f, and `learn` is the gradient of the first. The weighted ones when None.
      solver: lineax solver of the inverses; CG by default.

    Returns:
      Trees with the shapes and dtypes of `params`.

    Raises:
      ValueError: nothing to learn or to forget, a plain loss of an absent set, or shares or a rate that are out of range.

    Cost: a gradient a loss given; three CG solves, the first of one hvp of remain and of learn an iteration, the others of
    one of remain (two solves with nothing to learn and no reference); one hvp of learn, one of forget.
    Source: Huang et al. 2025, Proposition 1, −α{p_rl[∇L_r + ∇L_l] + p_f S[∇L_l(1−ε_l) − ∇L_f(ε_f)]}, S = H_f(H_r + H_l)⁻¹;
    Huang et al. 2024, Proposition 2, for −[(p_r + 1/α)H_r]⁻¹∇(p_l KL_l + p_f KL_f).

    Example:
      >>> remain, learn, forget = (lambda w, c=c: 0.5 * (w - c) ** 2 for c in (0.0, 3.0, 1.0))
      >>> parts = request_parts(learn, forget, remain, jnp.array(0.5), damping=0.0, shares=Shares(1, 1, 2))
      >>> {name: float(part) for name, part in parts._asdict().items()}
      {'learn': -2.5, 'forget': 0.5, 'remain': 0.5, 'salient': -1.0, 'newton': -2.0, 'preserving': -1.0}
    """
    _check(learn_loss, forget_loss, plain_learn_loss, plain_forget_loss)
    p_learn, p_forget, p_remain = _normalized(shares, learn_loss is not None, forget_loss is not None)
    if not isinstance(rate, jax.core.Tracer) and not np.asarray(rate) > 0:
        raise ValueError(f"rate is {rate}; expected α > 0, inf for a full step.")
    at = params if reference is None else reference
    plain_learn, plain_forget = plain_learn_loss or learn_loss, plain_forget_loss or forget_loss
    learn, forget, push = _pushes(learn_loss, forget_loss, params)
    moved = inverse_hvp(_sum(remain_loss, plain_learn), at, push, damping=damping, solver=solver)

    def through_remain(gradient):
        return inverse_hvp(remain_loss, params, gradient, damping=damping, solver=solver)

    learn_pull, salient = (_curved(loss, at, moved) for loss in (plain_learn, plain_forget))
    plasticity = jax.tree.map(lambda a, b: (p_learn * a + p_forget * b).astype(a.dtype), learn_pull, salient)
    kept = p_remain + 1 / rate
    return RequestParts(
        learn=learn if plain_learn_loss is None else jax.grad(plain_learn_loss)(params),
        forget=forget,
        remain=jax.grad(remain_loss)(params),
        salient=salient,
        newton=moved if learn_loss is None and reference is None else through_remain(push),
        preserving=jax.tree.map(lambda leaf: (leaf / kept).astype(leaf.dtype), through_remain(plasticity)),
    )


def displacement(
    learn_loss: Loss | None,
    forget_loss: Loss | None,
    remain_loss: Loss,
    params: PyTree,
    *,
    damping: float | jax.Array,
    reference: PyTree | None = None,
    plain_learn_loss: Loss | None = None,
    solver: Any = None,
) -> PyTree:
    """Δ = (H_r + H_l + damping)⁻¹ [∇L_l(θ; 1−ε_l) − ∇L_f(θ; ε_f)], an estimate of θ − θ_* that does not know θ_*.

    Exact on quadratics, else with a relative error that is linear in 1−ε_l and ε_f. It holds where `params` minimise
    L_r + L_l(·; ε_l) + L_f(·; ε_f).

    Args:
      learn_loss, forget_loss, remain_loss, params, damping, reference, plain_learn_loss, solver: as for `request_parts`.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: nothing to learn or to forget, or a plain loss of an absent set.

    Cost: a gradient of learn and of forget; a CG solve of one hvp of remain and of learn an iteration.
    Source: from the stationarity that Huang et al. 2025, Proposition 1, assumes of θ and θ_*.

    Example:
      >>> remain, learn, forget = (lambda w, c=c: 0.5 * (w - c) ** 2 for c in (0.0, 3.0, 1.0))
      >>> before, oracle = jnp.array(0.5), 1.5  # minima of remain + forget, of remain + learn
      >>> float(displacement(learn, forget, remain, before, damping=0.0)), float(before - oracle)
      (-1.0, -1.0)
    """
    _check(learn_loss, forget_loss, plain_learn_loss, None)
    push = _pushes(learn_loss, forget_loss, params)[2]
    at = params if reference is None else reference
    return inverse_hvp(_sum(remain_loss, plain_learn_loss or learn_loss), at, push, damping=damping, solver=solver)


def _pushes(learn_loss, forget_loss, params):
    """∇L_l(1−ε_l), −∇L_f(ε_f) and their sum; zero for an absent set."""
    zero = jax.tree.map(jnp.zeros_like, params)
    learn = zero if learn_loss is None else jax.grad(learn_loss)(params)
    forget = zero if forget_loss is None else jax.tree.map(jnp.negative, jax.grad(forget_loss)(params))
    return learn, forget, jax.tree.map(jnp.add, learn, forget)


def _sum(loss, other):
    return loss if other is None else lambda p: loss(p) + other(p)


def _curved(loss, at, vector):
    return jax.tree.map(jnp.zeros_like, vector) if loss is None else hvp(loss, at, vector)


def _check(learn_loss, forget_loss, plain_learn_loss, plain_forget_loss):
    if learn_loss is None and forget_loss is None:
        raise ValueError("learn_loss and forget_loss are None; expected at least one: the request asks for nothing.")
    for name, loss, plain in (("learn", learn_loss, plain_learn_loss), ("forget", forget_loss, plain_forget_loss)):
        if loss is None and plain is not None:
            raise ValueError(f"plain_{name}_loss is given but {name}_loss is None; give both, or neither.")


def _normalized(shares, learns, forgets):
    """(p_learn, p_forget, p_remain), 0 for an absent set."""
    present = Shares(shares.learn if learns else 0.0, shares.forget if forgets else 0.0, shares.remain)
    known = not any(isinstance(share, jax.core.Tracer) for share in present)
    if known and not (np.asarray(present[:2]) >= 0).all() & (np.asarray(present.remain) > 0):
        raise ValueError(f"{present}; expected numbers of rows, at least 0, and remaining rows, more than 0.")
    return tuple(share / sum(present) for share in present)
