"""Several kinds of step through one optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

REMAIN, FORGET, LEARN = 0, 1, 2


class PhasedState(NamedTuple):
    """State of each phase's own transformation and of the optimizer that they share."""

    forget: Any
    remain: Any
    learn: Any
    inner: Any


def phased(
    inner: optax.GradientTransformation,
    forget: optax.GradientTransformation | None = None,
    remain: optax.GradientTransformation | None = None,
    learn: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Send a gradient through its phase's transformation, then through one shared inner optimizer.

    `update(gradient, state, params, phase=FORGET | REMAIN | LEARN)`. The shared state is the point: momentum carries a forget
    step into the repairs that follow it. The state of a phase that is not on stays as it is.

    A forget step may take a learn gradient along, `update(..., phase=FORGET, learn_gradient=g)`: each goes through its own
    transformation, and their sum through the optimizer.

    Args:
      inner: the shared optimizer.
      forget, remain, learn: what each phase does to its gradient first; identity when None.

    A phase that is a Python int is chosen at trace time; a traced one by `lax.switch`. Other extra arguments pass on.
    """
    inner = optax.with_extra_args_support(inner)
    own = {
        name: optax.with_extra_args_support(tx or optax.identity())
        for name, tx in (("remain", remain), ("forget", forget), ("learn", learn))
    }  # in the order of the phases' numbers

    def init(params):
        return PhasedState(**{name: tx.init(params) for name, tx in own.items()}, inner=inner.init(params))

    def through(name, updates, state, params, extra):
        updates, mine = own[name].update(updates, getattr(state, name), params, **extra)
        return updates, state._replace(**{name: mine})

    def update(updates, state, params=None, *, phase, learn_gradient=None, **extra):
        extra = extra | {"phase": phase}
        if isinstance(phase, jax.core.Tracer | jax.Array):
            branches = [lambda u, s, name=name: through(name, u, s, params, extra) for name in own]
            updates, state = jax.lax.switch(jnp.asarray(phase), branches, updates, state)
        elif phase in (FORGET, REMAIN, LEARN):
            updates, state = through(list(own)[phase], updates, state, params, extra)
        else:
            raise ValueError(f"phase is {phase!r}; expected FORGET ({FORGET}), REMAIN ({REMAIN}) or LEARN ({LEARN}).")
        if learn_gradient is not None:
            learned, state = through("learn", learn_gradient, state, params, extra)
            updates = jax.tree.map(jnp.add, updates, learned)
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
