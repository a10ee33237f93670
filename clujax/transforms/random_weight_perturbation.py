"""Descend on the loss expected under random perturbation of the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, ScalarLike

from clujax.geometry.perturb import Sampler, Scale, check_sigma, normal, only_when, perturb, step_key


def cosine_increase(sigma_max: float, total_steps: int) -> optax.Schedule:
    """σ(t) = σ_max · (1 − cos(π t/T)) / 2: from 0 up to σ_max at step T, where it stays.

    Raises:
      ValueError: a strength below 0 or NaN, or no steps.

    Source: Li et al. 2025, section 4.

    Example:
      >>> [round(float(cosine_increase(0.1, 10)(t)), 4) for t in (0, 5, 10, 99)]
      [0.0, 0.05, 0.1, 0.1]
    """
    check_sigma(sigma_max)
    if not total_steps >= 1:
        raise ValueError(f"total_steps is {total_steps}; expected at least 1.")
    return lambda step: sigma_max * 0.5 * (1 - jnp.cos(jnp.pi * jnp.minimum(step, total_steps) / total_steps))


class RandomWeightPerturbationState(NamedTuple):
    """The optimizer's state, and steps so far: with the root key they determine the noise."""

    inner: Any
    step: Int[Array, ""]


def random_weight_perturbation(
    inner: optax.GradientTransformation,
    sigma: ScalarLike | optax.Schedule,
    scale: Scale,
    key: PRNGKeyArray | int = 0,
    *,
    sampler: Sampler = normal,
    weight: float = 1.0,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Replace the incoming gradient by λ·g(w + ε) + (1 − λ)·g(w), ε drawn anew each step, and hand it to `inner`.

    As in the opaque mode of `optax.contrib.sam`, `update` takes `grad_fn=`: a function (params, i) -> gradient on the same
    batch, which is called once, at the perturbed weights and with i = 0. The weights themselves stay clean. With
    λ = 1 the incoming gradient is not used: hand in zeros of the same structure and pay for one gradient a step.

    Args:
      inner: the optimizer.
      sigma: strength of the noise or a schedule of it over steps, e.g. `cosine_increase`.
      scale: deviations at σ = 1, e.g. `filter_wise(layouts(params))`.
      key: root of the noise; step i draws from `fold_in(key, i)`.
      sampler: see `perturb`.
      weight: λ in [0, 1]; 1/2 is the mixed objective of Li et al. 2024 (mRWP).
      every: noise on every such step only; the others use the gradient at the clean weights, and draw nothing.

    Raises:
      ValueError: a setting out of range; or `update` without `params` or `grad_fn`.

    Cost: one gradient by `grad_fn`, and one random number a perturbed weight.
    Source: Bisla et al. 2022; Li et al. 2024; Li et al. 2025.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected a number in [0, 1].")
    if every < 1:
        raise ValueError(f"every is {every}; expected an integer of at least 1.")
    inner = optax.with_extra_args_support(inner)
    root = jax.random.key(key) if isinstance(key, int) else key

    def init(params: PyTree) -> RandomWeightPerturbationState:
        return RandomWeightPerturbationState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, grad_fn: Callable[..., PyTree] | None = None, **extra):
        if params is None or grad_fn is None:
            raise ValueError(
                "random_weight_perturbation needs the weights and a gradient function of them: "
                "call update(gradient, state, params, grad_fn=lambda params, i: ...)."
            )
        strength = sigma(state.step) if callable(sigma) else sigma
        draw = only_when(state.step % every == 0, sampler) if every > 1 else sampler
        there = grad_fn(perturb(params, step_key(root, state.step), strength, scale, sampler=draw), 0)
        if weight < 1:
            there = jax.tree.map(lambda a, b: (weight * a + (1 - weight) * b).astype(b.dtype), there, updates)
        updates, inner_state = inner.update(there, state.inner, params, **extra)
        return updates, RandomWeightPerturbationState(inner_state, state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)
