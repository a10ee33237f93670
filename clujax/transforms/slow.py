"""Slow weights: follow the optimizer only part of the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ScalarLike

from clujax.transforms.phased import REMAIN


class SlowState(NamedTuple):
    """The weights at the last outer step, and iterations since the start."""

    slow: Any
    count: jax.Array


def slow_weights(step_size: ScalarLike, every: ScalarLike = 1) -> optax.GradientTransformationExtraArgs:
    """Every `every` iterations, set the weights to (1 − τ)·slow + τ·fast; place it last in a chain.

    Parameters go in and come out as the plain tree: the outer step is part of the update. Slow weights are those after the
    last outer step. With the extra argument `phase`, forget updates belong to the iteration that they open and are not
    counted.

    Args:
      step_size: τ in [0, 1]; 1 is the identity and keeps no copy of the weights (an array always keeps one,
        so that an injected τ may change without changing the state).
      every: iterations between outer steps.

    Raises:
      ValueError: out of range; or `update` without params.

    Cost: one copy of the parameters when τ < 1.
    Source: Zhang et al. 2019 (lookahead); the outer step of Huang et al. 2024.
    """
    # A value under trace, as optax.inject_hyperparams hands over, cannot be read.
    if not isinstance(step_size, jax.core.Tracer) and not 0 <= np.asarray(step_size) <= 1:
        raise ValueError(f"step_size is {step_size}; expected a number in [0, 1].")
    if not isinstance(every, jax.core.Tracer) and not np.asarray(every) >= 1:
        raise ValueError(f"every is {every}; expected an integer of at least 1.")
    if not isinstance(step_size, jax.Array) and step_size == 1:
        return optax.with_extra_args_support(optax.identity())

    def init(params):
        return SlowState(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, phase=REMAIN, **extra):
        del extra
        if params is None:
            raise ValueError("slow_weights needs the parameters: call update(updates, state, params).")
        counted = jnp.asarray(phase == REMAIN)
        count = state.count + counted.astype(jnp.int32)
        outer = counted & (count % every == 0)

        def step(update, slow, fast):
            target = (1 - step_size) * slow + step_size * (fast + update)
            return jnp.where(outer, target - fast, update).astype(update.dtype)

        updates = jax.tree.map(step, updates, state.slow, params)
        slow = jax.tree.map(
            lambda slow, fast, update: jnp.where(outer, (fast + update).astype(slow.dtype), slow),
            state.slow,
            params,
            updates,
        )
        return updates, SlowState(slow, count)

    return optax.GradientTransformationExtraArgs(init, update)
