"""Plans that several methods share: descent on one set of rows, and on pairs of a forget and a remaining batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from clujax.adaptation.losses import descend
from clujax.adaptation.method import Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.request import Request, compiled_step, stream
from clujax.errors import RequestError


def num_batches(rows: Any, batch_size: int) -> int:
    """Batches in an epoch, the last one filled from the next epoch."""
    return math.ceil(len(rows["y"]) / batch_size)


def train_on(
    request: Request,
    rows: Any,
    params: Any,
    stats: Any,
    key: Any,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    loss: Callable | None = None,
    annotate: Callable[[int], dict] | None = None,
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None = None,
) -> Plan:
    """A plan that trains `params` on `rows`, by default by cross-entropy.

    Args:
      loss: `loss(params, stats, batch, key) -> (scalar, (stats, metrics))`.
      annotate: `annotate(s)`, what the batch of step s also holds.
      wrap: `wrap(tx)` in place of the optimizer.
    """
    num_steps = math.ceil(epochs * num_batches(rows, batch_size))
    tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
    tx = wrap(tx) if wrap else tx
    batch_at = stream(request, rows, batch_size, key)
    extra = annotate or (lambda s: {})
    steps = {"remain": compiled_step(request, loss or descend(request), tx)}
    return Plan(params, stats, tx, steps, lambda s: [("remain", batch_at(s) | extra(s))], num_steps)


def train_pairs(
    request: Request,
    loss: Callable,
    key: Any,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> Plan:
    """A plan of passes over the remaining rows, each batch beside one of the forget rows, which begin again when they end.

    `loss` sees `{"forget": batch, "remain": batch}`.
    """
    forget_key, remain_key = jax.random.split(key)
    num_steps = math.ceil(epochs * num_batches(request.remain, batch_size))
    tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
    forget_at = stream(request, request.forget, batch_size, forget_key)
    remain_at = stream(request, request.remain, batch_size, remain_key)
    steps = {"both": compiled_step(request, loss, tx)}
    work = lambda s: [("both", {"forget": forget_at(s), "remain": remain_at(s)})]
    return Plan(request.params, request.stats, tx, steps, work, num_steps)


def edited(request: Request, params: PyTree, **facts: Any) -> Plan:
    """A plan that trains nothing: the edit was made while preparing. It gets the dtypes and the layout it started from."""

    def like(new, old):
        new = jnp.asarray(new, old.dtype)
        return jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new

    params = jax.tree.map(like, params, request.params)
    return Plan(params, request.stats, optax.identity(), {}, lambda s: [], 0, facts)


def with_teachers(request: Request, **teachers: tuple[PyTree, PyTree]) -> dict[str, Any]:
    """The network's stats beside teachers `name=(params, stats)`, for a plan that ends with `network_only`.

    Teachers ride in the state: laid out like parameters, where closed-over arrays would be constants of the program.
    """
    return {"network": request.stats} | {name: {"params": p, "stats": s} for name, (p, s) in teachers.items()}


def teach(request: Request, teacher: dict[str, PyTree], inputs: Array) -> Array:
    """A teacher's logits, in eval mode."""
    return request.classifier.apply(teacher["params"], teacher["stats"], inputs, train=False)[0]


def network_only(params: PyTree, stats: dict[str, PyTree]) -> tuple[PyTree, PyTree]:
    """`Plan.finish` for stats that hold more than the network's."""
    return params, stats["network"]


def float_inputs(request: Request, x: Any) -> tuple[Array, float | None]:
    """Rows as float32 that the network reads as it reads `x`, and the size of a grey level; None where `x` is not pixels.

    Some networks take integer pixels for 0 … 255 and floats for 0 … 1; one row tells which kind this one is.

    Raises:
      RequestError: integer inputs that the network reads unlike either.
    """
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.asarray(x, jnp.float32), None
    floats = jnp.asarray(x, jnp.float32)
    look = lambda inputs: np.asarray(request.classifier.apply(request.params, request.stats, inputs, train=False)[0])
    seen = look(jnp.asarray(x[:1]))
    for step in (1.0, 1 / 255):
        if np.allclose(look(floats[:1] * step), seen, rtol=1e-3, atol=1e-3):
            return floats * step, step
    raise RequestError(
        "the network reads integer inputs neither as floats of 0 to 255 nor of 0 to 1, so that no gradient with respect to"
        " them can be taken: give the request float inputs."
    )


def check_numbers(settings: dict, *, least: dict | None = None) -> None:
    """Refuse numbers that cannot be meant; NaN fails every comparison and so is refused too.

    Args:
      settings: of a method.
      least: name -> smallest allowed value, beside those that many methods share.

    Raises:
      ValueError: naming the setting, what came and what is allowed.
    """
    common = {"epochs": 0, "batch_size": 1, "learning_rate": 0, "momentum": 0, "weight_decay": 0}
    for name, lowest in (common | (least or {})).items():
        value = settings.get(name)
        if value is not None and not value >= lowest:
            raise ValueError(f"{name} is {value}; expected a number of at least {lowest}.")


def check_choice(name: str, value: Any, allowed: tuple) -> None:
    """Refuse a word that is not on the list.

    Raises:
      ValueError: naming the setting and the list.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {allowed}.")
