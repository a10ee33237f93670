"""What the methods share: a batch in named parts, one forward pass over all of them, one training run a request."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.losses import augmented, cross_entropy
from clujax.adaptation.method import Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.plans import check_choice, check_numbers, network_only
from clujax.adaptation.request import Request, compiled_step
from clujax.continual import memory as memories
from clujax.continual.method import Learner, Phase, Scene
from clujax.continual.request import Change
from clujax.errors import RequestError

# The request's new rows, two independent draws of old rows, and the rows to forget.
PARTS = ("learn", "replay", "second", "forget")


def check_training(settings: Mapping[str, Any], **least: float) -> None:
    """Refuse settings of a training run, and others by their least value, that cannot be meant.

    Raises:
      ValueError: naming the setting, what came and what is allowed.
    """
    check_numbers(dict(settings), least={"steps": 1} | least)
    if settings.get("replay") is not None:
        check_choice("replay", settings["replay"], ("memory", "remain"))
    if settings.get("max_norm") is not None and not settings["max_norm"] > 0:
        raise ValueError(f"max_norm is {settings['max_norm']}; expected a positive norm, or None for no clipping.")


def has_old_rows(learner: Learner, change: Change, replay: str) -> bool:
    """Whether there are old rows to keep the network by.

    Args:
      replay: "memory" or "remain", where they come from.

    Raises:
      RequestError: rows remain, and the memory that they are to be kept by is empty.
    """
    if replay == "remain":
        return len(change.remain) > 0
    if np.asarray(learner.memory.valid).any():
        return True
    if len(change.remain):
        raise RequestError(
            f"{len(change.remain)} rows are to be kept, but memory, by which this method keeps them, holds none of them:"
            " give it more room, or set replay='remain' if all remaining rows may be read."
        )
    return False


def sources(
    scene: Scene, learner: Learner, change: Change, key: PRNGKeyArray, parts: Collection[str], replay: str, size: int
) -> dict[str, Callable[[int], dict]]:
    """`part -> batch_at(step)` for the parts that there are rows for, `size` rows each.

    Raises:
      RequestError: as `has_old_rows`.
    """
    keys = dict(zip(PARTS, jax.random.split(key, len(PARTS))))
    found = {}
    for part in parts:
        if part in ("learn", "forget"):
            if len(rows := getattr(change, part)):
                found[part] = scene.batches(rows, size, keys[part])
        elif has_old_rows(learner, change, replay):
            found[part] = old_rows_at(scene, learner, change, keys[part], replay, size)
    return found


def old_rows_at(
    scene: Scene, learner: Learner, change: Change, key: PRNGKeyArray, replay: str, size: int
) -> Callable[[int], dict]:
    """`batch_at(step)` of old rows: draws from memory, or all remaining rows in shuffled passes."""
    if replay == "remain":
        return scene.batches(change.remain, size, key)
    return memories.draws(learner.memory, size, key)


def forward_parts(request: Request, params: PyTree, stats: PyTree, batch: Mapping[str, Any], key: PRNGKeyArray):
    """One training pass over all parts of a batch together, so that BatchNorm sees their mixture, as it does at prediction.

    Returns:
      Logits by part, inputs by part as the augmentation showed them, and stats with `stats["network"]` as it is now.
    """
    names = [name for name in PARTS if name in batch]
    ends = np.cumsum([len(batch[name]["y"]) for name in names])
    together = {"x": jnp.concatenate([batch[name]["x"] for name in names])}
    augment_key, network_key = jax.random.split(key)
    shown = augmented(request, together, augment_key)["x"]
    logits, network = request.classifier.apply(params, stats["network"], shown, train=True, key=network_key)
    by_part = lambda array: dict(zip(names, jnp.split(array, ends[:-1])))
    return by_part(logits), by_part(shown), stats | {"network": network}


def descend_on(scene: Scene, **weights: float) -> Callable:
    """Σ over parts of weight × mean cross-entropy."""

    def loss(params, stats, batch, key):
        logits, _, stats = forward_parts(scene.bare, params, stats, batch, key)
        terms = {name: jnp.mean(cross_entropy(logits[name], batch[name]["y"])) for name in logits}
        total = sum(weights[name] * value for name, value in terms.items())
        return total, (stats, {f"{name}_loss": value for name, value in terms.items()})

    return loss


def adapting(
    scene: Scene,
    loss: Callable,
    settings: Mapping[str, Any],
    *,
    parts: Collection[str],
    carry: Callable[[Learner, Change, PRNGKeyArray], dict[str, PyTree]] = lambda learner, change, key: {},
    annotate: Callable[[int], dict] = lambda s: {},
) -> Callable[[Learner, Change], list[Phase]]:
    """`Rules.phases` of a method that trains once a request, by SGD whose rate falls to zero, with one compiled step.

    That step is a program for each combination of parts that occurs (new rows with or without old ones, ...), whatever the
    number of rows of a request. A request that has rows for none of the parts has no phase.

    Args:
      loss: `loss(params, stats, batch, key) -> (scalar, (stats, metrics))`; a batch maps parts to rows, `stats["network"]` is
        the network's own.
      settings: `steps`, `batch_size`, `learning_rate`, `momentum`, `weight_decay`, and, where there are, `replay` and
        `max_norm` (global norm to which gradients are clipped).
      parts: those that the loss reads.
      carry: `carry(learner, change, key)`, what the loss finds in stats beside the network's (teachers, anchors).
      annotate: `annotate(s)`, what the batch of step s holds besides.
    """
    steps, size, replay = settings["steps"], settings["batch_size"], settings.get("replay", "memory")
    tx = sgd(settings["learning_rate"], steps, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    if settings.get("max_norm") is not None:
        tx = optax.chain(optax.clip_by_global_norm(settings["max_norm"]), tx)
    compiled = {"adapt": compiled_step(scene.bare, loss, tx)}

    def phases(learner, change):
        asked = [len(getattr(change, part)) for part in parts if part in ("learn", "forget")]
        old = "replay" in parts and has_old_rows(learner, change, replay)
        if not any(asked) and not old:
            return []

        def prepare(learner, key):
            batch_key, carry_key = jax.random.split(key)
            found = sources(scene, learner, change, batch_key, parts, replay, size)
            work = lambda s: [("adapt", {part: at(s) for part, at in found.items()} | annotate(s))]
            stats = {"network": learner.stats} | carry(learner, change, carry_key)
            return Plan(learner.params, stats, tx, compiled, work, steps, finish=network_only)

        return [Phase("adapt", prepare)]

    return phases
