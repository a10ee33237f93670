"""A step with the shapes of its arguments: what is needed to compile it for devices that are not here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from clujax.training.state import TrainState


class Outline(NamedTuple):
    """One compiled step of a run, and the shapes that it is called with; no value is ever computed.

    Attributes:
        name: of the stage and the step, for example `sfron/forget`.
        step: made by `make_train_step` (or a `functools.partial` of one that fixes its extra arguments).
        state: a `TrainState` of `jax.ShapeDtypeStruct`.
        batch: the batch as a tree of `jax.ShapeDtypeStruct`.
        rows: global rows in the batch.
        calls: how often the step is called in the whole run.
    """

    name: str
    step: Callable[..., Any]
    state: TrainState
    batch: PyTree
    rows: int
    calls: float


def lower(outline: Outline) -> jax.stages.Lowered:
    """Lower the step on the mesh that it was made for, whether its devices are here or only described.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from clujax.training import init_state, make_train_step
        >>> tx = optax.sgd(0.1)
        >>> step = make_train_step(lambda p, s, b, k: (jnp.sum(p["w"] * b["x"]), (s, {})), tx)
        >>> state = jax.eval_shape(lambda: init_state({"w": jnp.ones(3)}, {}, tx, jax.random.key(0)))
        >>> batch = {"x": jax.ShapeDtypeStruct((5, 3), jnp.float32)}
        >>> lower(Outline("train", step, state, batch, 5, 1)).compile().memory_analysis().argument_size_in_bytes > 60
        True
    """
    step, extra = outline.step, {}
    while isinstance(step, functools.partial):
        step, extra = step.func, step.keywords | extra
    return step.lower(outline.state, outline.batch, **extra)
