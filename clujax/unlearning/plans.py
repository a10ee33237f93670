"""Plans that several methods share: descent on one set of rows, and on pairs of a forget and a remaining batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from clujax.unlearning.losses import descend
from clujax.unlearning.method import Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.request import Request, compiled_step, stream


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
    annotate: Callable[[float], dict] | None = None,
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None = None,
) -> Plan:
    """A plan that trains `params` on `rows`, by default by cross-entropy.

    Args:
      loss: `loss(params, stats, batch, key) -> (scalar, (stats, metrics))`.
      annotate: `annotate(progress)`, what a batch also holds at that share of the run.
      wrap: `wrap(tx)` in place of the optimizer.
    """
    num_steps = math.ceil(epochs * num_batches(rows, batch_size))
    tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
    tx = wrap(tx) if wrap else tx
    batch_at = stream(request, rows, batch_size, key)
    extra = annotate or (lambda progress: {})
    steps = {"remain": compiled_step(request, loss or descend(request), tx)}
    return Plan(params, stats, tx, steps, lambda s: [("remain", batch_at(s) | extra(s / num_steps))], num_steps)


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


def edited(request: Request, params: Any, **facts: Any) -> Plan:
    """A plan that trains nothing: the edit was made while preparing."""
    return Plan(params, request.stats, optax.identity(), {}, lambda s: [], 0, facts)


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
