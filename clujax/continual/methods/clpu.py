"""CLPU-DER++: a task that may be revoked lives in a network of its own, and is forgotten by dropping it."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from clujax.adaptation.plans import check_choice
from clujax.continual.head import as_open
from clujax.continual.method import Learner, Method, Phase, Rules, Scene
from clujax.continual.methods.der import dark_loss
from clujax.continual.methods.parts import adapting, check_training
from clujax.errors import RequestError

FREE = -1


class Sides(NamedTuple):
    """The side networks, in places whose number is fixed.

    Attributes:
      params, stats: of all places, stacked; zero where a place is free.
      task: whose network stands in a place, −1 where it is free.
      owns: the classes that each network was taught; the last row is the main network's.
    """

    params: PyTree
    stats: PyTree
    task: Int[Array, " slots"]
    owns: Bool[Array, "networks C"]


def clpu(
    *,
    revocable: Collection[int] | None = None,
    slots: int = 5,
    start: str = "main",
    alpha: float = 0.3,
    beta: float = 0.5,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Learn a revocable task by CE in a side network, every other task by DER++ in the main one; forget by dropping.

    Forgetting is exact: the rows of a revocable task reach neither the main network nor memory, and its side network is
    overwritten by zeros, so that all else is as if the task had never been, to the bit. The price is a network for each task
    that lives, none of which learns from a later one. At prediction the logit of a class is the largest among the networks
    that were taught it; a class that none was taught gets the row's smallest. The paper's third request, to make a revocable
    task permanent by distilling it into the main network, is not asked in these streams.

    A learn-only request trains one network; a forget-only one trains nothing. Rows to forget are never used.

    Args:
      revocable: numbers of the tasks that may be forgotten; None for all of them.
      slots: places for side networks.
      start: a side network starts as a copy of the "main" one or as a "fresh" initialisation.
      alpha, beta: of DER++.

    A request raises RequestError when it has no task, when it is to forget a task that was learned for good, and when no
    place is free.

    Source: Liu et al. 2022, "Continual Learning and Private Unlearning". Cost: a gradient of one batch per step for a
    revocable task, of three for another; slots + 1 forward passes per prediction; memory: slots + 1 networks.
    """
    settings = dict(locals())
    check_training(settings, alpha=0, beta=0, slots=1)
    check_choice("start", start, ("main", "fresh"))

    def build(scene):
        init, labels = jax.jit(scene.classifier.init), np.asarray(scene.columns["y"])
        loss = dark_loss(scene, alpha, beta)
        train_main = adapting(scene, loss, settings, parts=("learn", "replay", "second"))
        train_side = adapting(scene, loss, settings, parts=("learn",))
        may_go = lambda change: revocable is None or change.task in revocable
        taught = lambda change: np.isin(np.arange(scene.num_classes), labels[change.learn])

        def phases(learner, change):
            sides = learner.extra
            place = _place(sides, change, may_go(change))
            if not len(change.learn):
                return []
            if not may_go(change):  # rows in side networks need no rehearsal, and memory never saw them
                alone = not np.asarray(sides.owns)[-1].any()
                return train_main(learner, change._replace(remain=change.remain[:0]) if alone else change)
            goes_on = int(sides.task[place]) == change.task and not len(change.forget)
            owns = taught(change) | (goes_on & np.asarray(sides.owns)[place])
            (phase,) = train_side(learner, change)

            def prepare(learner, key):
                init_key, phase_key = jax.random.split(key)
                params, stats = learner.params, learner.stats
                if goes_on:
                    params, stats = take(learner.extra, place)
                elif start == "fresh":
                    params, stats = init(init_key, jnp.zeros_like(scene.columns["x"][:1]))
                    stats = as_open(stats, learner.stats)
                return phase.prepare(learner._replace(params=params, stats=stats), phase_key)

            def keep(learner, params, stats):
                return learner._replace(extra=put(learner.extra, place, params, stats, change.task, owns))

            return [Phase("side", prepare, keep)]

        def adopt(learner, change, key):
            """A base network of a revocable task is a side network; the main one is fresh."""
            if not may_go(change):
                return learner
            place = _place(learner.extra, change, True)
            sides = put(learner.extra, place, learner.params, learner.stats, change.task, taught(change))
            params, stats = init(key, jnp.zeros_like(scene.columns["x"][:1]))
            return learner._replace(params=params, stats=as_open(stats, learner.stats), extra=sides)

        def end(learner, change, key):
            sides = learner.extra
            if not len(change.learn):
                nothing = jax.tree.map(jnp.zeros_like, (learner.params, learner.stats))
                nobody = np.zeros(scene.num_classes, bool)
                sides = put(sides, _place(sides, change, True), *nothing, FREE, nobody)
            elif not may_go(change):
                owns = np.array(sides.owns)
                owns[-1] |= taught(change)
                sides = sides._replace(owns=jnp.asarray(owns))
            return learner._replace(extra=sides)

        return Rules(
            phases,
            start=lambda learner: no_sides(learner, slots, scene.num_classes),
            adopt=adopt,
            end=end,
            keep_logits=True,
            offered=lambda learner, change: change.learn[:0] if may_go(change) else change.learn,
            logits=combined(scene, slots),
        )

    return Method("clpu", settings | {"revocable": None if revocable is None else sorted(revocable)}, build)


def no_sides(learner: Learner, slots: int, num_classes: int) -> Sides:
    """Free places for networks like the learner's."""
    stack = lambda tree: jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), tree)
    task, owns = jnp.full(slots, FREE, jnp.int32), jnp.zeros((slots + 1, num_classes), bool)
    return Sides(stack(learner.params), stack(learner.stats), task, owns)


@jax.jit
def put(sides: Sides, place: Any, params: PyTree, stats: PyTree, task: Any, owns: Any) -> Sides:
    """One place filled, or freed by `task=FREE`."""
    at = lambda stack, leaf: stack.at[place].set(leaf)
    params, stats = jax.tree.map(at, sides.params, params), jax.tree.map(at, sides.stats, stats)
    return Sides(params, stats, sides.task.at[place].set(task), sides.owns.at[place].set(owns))


@jax.jit
def take(sides: Sides, place: Any) -> tuple[PyTree, PyTree]:
    """Parameters and stats of one place."""
    return jax.tree.map(lambda stack: stack[place], (sides.params, sides.stats))


def combined(scene: Scene, slots: int) -> Callable[[Learner, Any], jax.Array]:
    """`logits(learner, inputs) -> [B, C]`: of each class the largest logit among the networks that were taught it.

    The main network's as they are before anything was taught.
    """

    @jax.jit
    def logits(learner, inputs):
        apply = lambda params, stats: scene.classifier.apply(params, stats, inputs, train=False)[0]
        main, owns = apply(learner.params, learner.stats), learner.extra.owns
        # Written out: under vmap convolutions become grouped ones, and in a scan they are slow on CPU.
        every = jnp.stack([*(apply(*take(learner.extra, place)) for place in range(slots)), main])
        largest = jnp.max(jnp.where(owns[:, None], every, -jnp.inf), 0)
        known = owns.any(0)
        smallest = jnp.min(jnp.where(known, largest, jnp.inf), -1, keepdims=True)
        return jnp.where(known.any(), jnp.where(known, largest, smallest), main)

    return logits


def _place(sides, change, may_go):
    """The place of the request's task, or a free one for a revocable task; None where no side network is concerned."""
    task = np.asarray(sides.task)
    if change.task is None:
        raise RequestError("the request has no task; this method forgets whole tasks: make the stream task-aware.")
    if (task == change.task).any():
        return int(np.argmax(task == change.task))
    if len(change.forget):
        raise RequestError(
            f"task {change.task} is to be forgotten but has no side network: it was learned for good. Name it among the"
            " revocable tasks before it is learned."
        )
    if may_go and not (task == FREE).any():
        raise RequestError(
            f"no place is free for task {change.task}: the {len(task)} side networks hold tasks {sorted(task.tolist())}."
            " Raise slots, or let fewer tasks be revocable."
        )
    return int(np.argmax(task == FREE)) if may_go else None
