"""AdaLoRA: factors P·diag(λ)·Q whose least important components are closed while a budget over all kernels shrinks.

Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (ICLR 2023, arXiv 2303.10512).

What is trained is {path: {"a": P, "s": λ, "b": Q}}; `factors` makes ordinary adapters of it, which everything else takes:
`make_step(..., factors_of=factors)`, `merge(base, factors(trained), spec)`, files, soups.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from clujax.geometry import lowrank
from clujax.geometry.perturb import leaf_key
from clujax.lora.adapters import Adapters
from clujax.lora.rules import Spec

Trained = dict[str, dict[str, Array]]


def init_singular(key: PRNGKeyArray, spec: Spec, std: float = 0.02) -> Trained:
    """P and Q drawn from N(0, std²), λ at 0: the merged network begins as the base."""
    trained = {}
    for entry in spec:
        shapes = lowrank.factor_shapes(entry.shape, entry.rank, entry.layout)
        keys = jax.random.split(leaf_key(key, entry.name))
        a, b = (std * jax.random.normal(k, shape, entry.dtype) for k, shape in zip(keys, shapes))
        stack = shapes[1][: len(entry.layout.batch)]
        trained[entry.name] = {"a": a, "s": jnp.zeros((*stack, entry.rank), entry.dtype), "b": b}
    return trained


def factors(trained: Trained) -> Adapters:
    """Ordinary adapters a = P, b = diag(λ)·Q."""
    return {
        name: {"a": parts["a"], "b": _spread(parts["s"], parts["b"]) * parts["b"]} for name, parts in trained.items()
    }


def cubic_budget(first: int, last: int, begin: int, end: int) -> optax.Schedule:
    """Components that may be open: `first` until step `begin`, then down by a cubic to `last` at step `end`.

    b(t) = b_T + (b_0 − b_T)·(1 − (t − t_i)/(t_f − t_i))³ (eq. 12).

    Raises:
      ValueError: 0 < last ≤ first or 0 ≤ begin < end does not hold.

    Example:
      >>> [int(cubic_budget(24, 8, 10, 20)(t)) for t in (0, 10, 15, 20, 99)]
      [24, 24, 10, 8, 8]
    """
    if not 0 < last <= first or not 0 <= begin < end:
        raise ValueError(
            f"a budget from {first} to {last} over steps {begin} to {end}; expected 0 < last ≤ first, 0 ≤ begin < end."
        )

    def schedule(step: Any) -> Int[Array, ""]:
        left = 1 - jnp.clip((step - begin) / (end - begin), 0, 1)
        return jnp.round(last + (first - last) * left**3).astype(jnp.int32)

    return schedule


class AllocationState(NamedTuple):
    """Steps so far, the inner optimizer's state, smoothed sensitivities and how much they vary."""

    step: Int[Array, ""]
    inner: Any
    sensitivity: Trained
    uncertainty: Trained


def allocate_rank(
    inner: optax.GradientTransformation,
    budget: Callable[[Any], Any],
    *,
    smooth: float = 0.85,
    smooth_uncertainty: float = 0.85,
    orthogonality: float = 0.1,
) -> optax.GradientTransformation:
    """An optimizer of `Trained` that after each step sets all but the `budget(step)` most important λ to 0.

    The score of component i of a kernel is S(λ_i) + mean S(P_i) + mean S(Q_i), S the product of the smoothed |w·g| and its
    smoothed variation (eqs. 7 to 11). A component that is closed still has a gradient and may open again.

    Args:
      inner: the optimizer.
      budget: step -> how many components of all kernels together may be open, e.g. `cubic_budget`.
      smooth, smooth_uncertainty: β₁ and β₂.
      orthogonality: γ of γ·Σ(‖PᵀP − 1‖² + ‖QQᵀ − 1‖²), whose gradient is added.

    Raises:
      ValueError: `update` without params.

    Cost: two more copies of what is trained, a sort of the components, 4·(n + m)·r² operations a kernel for the penalty.
    """
    inner = optax.with_extra_args_support(inner)

    def init(trained: Trained) -> AllocationState:
        zeros = jax.tree.map(jnp.zeros_like, trained)
        return AllocationState(jnp.zeros((), jnp.int32), inner.init(trained), zeros, zeros)

    def update(updates: Trained, state: AllocationState, params: Trained | None = None, **extra: Any) -> tuple:
        if params is None:
            raise ValueError("allocate_rank needs what is trained: call update(gradient, state, params).")
        now = jax.tree.map(lambda w, g: jnp.abs(w * g), params, updates)
        blend = lambda share: lambda old, new: (share * old + (1 - share) * new).astype(old.dtype)
        sensitivity = jax.tree.map(blend(smooth), state.sensitivity, now)
        spread = jax.tree.map(lambda new, mean: jnp.abs(new - mean), now, sensitivity)
        uncertainty = jax.tree.map(blend(smooth_uncertainty), state.uncertainty, spread)
        penalty = jax.grad(non_orthogonality)(params)
        slope = jax.tree.map(lambda g, p: (g + orthogonality * p).astype(g.dtype), updates, penalty)
        steps, inner_state = inner.update(slope, state.inner, params, **extra)
        important = _scores(jax.tree.map(jnp.multiply, sensitivity, uncertainty))
        open_ = _largest(important, budget(state.step))
        closed = lambda step, s, keep: jnp.where(keep, s + step, 0).astype(s.dtype) - s
        steps = {
            name: parts | {"s": closed(parts["s"], params[name]["s"], open_[name])} for name, parts in steps.items()
        }
        return steps, AllocationState(state.step + 1, inner_state, sensitivity, uncertainty)

    return optax.GradientTransformationExtraArgs(init, update)


def non_orthogonality(trained: Trained) -> Float[Array, ""]:
    """Σ over kernels of ‖PᵀP − 1‖² + ‖QQᵀ − 1‖² (eq. 4)."""

    def one(parts: dict[str, Array]) -> Array:
        rank, stack = parts["s"].shape[-1], parts["s"].shape[:-1]
        p, q = parts["a"].reshape(*stack, -1, rank), parts["b"].reshape(*stack, rank, -1)
        square = lambda gram: jnp.sum(jnp.square(gram - jnp.eye(rank)))
        return square(jnp.swapaxes(p, -1, -2) @ p) + square(q @ jnp.swapaxes(q, -1, -2))

    return sum(one(jax.tree.map(lambda x: x.astype(jnp.float32), parts)) for parts in trained.values())


def _scores(parts: Trained) -> dict[str, Float[Array, "..."]]:
    """The importance of every component, shaped as λ."""

    def one(part: dict[str, Array]) -> Array:
        rank, stack = part["s"].shape[-1], part["s"].shape[:-1]
        inside = part["a"].reshape(*stack, -1, rank).mean(-2)
        return part["s"] + inside + part["b"].reshape(*stack, rank, -1).mean(-1)

    return {name: one(part) for name, part in parts.items()}


def _largest(scores: dict[str, Array], count: Any) -> dict[str, Array]:
    """Whether each is among the `count` largest of all; of equals the first ones are."""
    flat, back = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.float32), scores))
    place = jnp.zeros(flat.shape, jnp.float32).at[jnp.argsort(-flat, stable=True)].set(jnp.arange(flat.size))
    return jax.tree.map(lambda rank: rank < count, back(place))


def _spread(s: Array, b: Array) -> Array:
    return s.reshape(*s.shape, *[1] * (b.ndim - s.ndim))
