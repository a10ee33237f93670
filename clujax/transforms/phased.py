"""Two kinds of step through one optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

REMAIN, FORGET = 0, 1


class PhasedState(NamedTuple):
    """State of each phase's own transformation and of the optimizer that they share."""

    forget: Any
    remain: Any
    inner: Any


def phased(
    inner: optax.GradientTransformation,
    forget: optax.GradientTransformation | None = None,
    remain: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Send a gradient through its phase's transformation, then through one shared inner optimizer.

    `update(gradient, state, params, phase=FORGET | REMAIN)`. The shared state is the point: momentum carries a forget step
    into the repairs that follow it. The state of the phase that is not on stays as it is.

    Args:
      inner: the shared optimizer.
      forget, remain: what each phase does to its gradient first; identity when None.

    A phase that is a Python int is chosen at trace time; a traced one by `lax.cond`. Other extra arguments pass on.
    """
    inner, forget, remain = (optax.with_extra_args_support(tx or optax.identity()) for tx in (inner, forget, remain))

    def init(params):
        return PhasedState(forget.init(params), remain.init(params), inner.init(params))

    def on_forget(updates, state, params, extra):
        updates, own = forget.update(updates, state.forget, params, **extra)
        return updates, state._replace(forget=own)

    def on_remain(updates, state, params, extra):
        updates, own = remain.update(updates, state.remain, params, **extra)
        return updates, state._replace(remain=own)

    def update(updates, state, params=None, *, phase, **extra):
        extra = extra | {"phase": phase}
        if isinstance(phase, jax.core.Tracer | jax.Array):
            updates, state = jax.lax.cond(
                jnp.asarray(phase) == FORGET,
                lambda u, s: on_forget(u, s, params, extra),
                lambda u, s: on_remain(u, s, params, extra),
                updates,
                state,
            )
        elif phase in (FORGET, REMAIN):
            updates, state = (on_forget if phase == FORGET else on_remain)(updates, state, params, extra)
        else:
            raise ValueError(f"phase is {phase!r}; expected FORGET ({FORGET}) or REMAIN ({REMAIN}).")
        updates, shared = inner.update(updates, state.inner, params, **extra)
        return updates, state._replace(inner=shared)

    return optax.GradientTransformationExtraArgs(init, update)


class IterationRateState(NamedTuple):
    """Iterations, that is remain updates, so far."""

    count: jax.Array


def scale_by_iteration_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """Scale by −learning_rate(s), where s counts remain updates only.

    A forget step then has the rate of the iteration that it opens, and a schedule over N iterations ends at N however many
    forget steps there were. (optax's own schedules count every update.)
    """
    rate = learning_rate if callable(learning_rate) else lambda count: learning_rate

    def init(params):
        del params
        return IterationRateState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, phase=REMAIN, **extra):
        del params, extra
        scale = -rate(state.count)
        updates = jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), updates)
        return updates, IterationRateState(state.count + jnp.asarray(phase == REMAIN, jnp.int32))

    return optax.GradientTransformationExtraArgs(init, update)
