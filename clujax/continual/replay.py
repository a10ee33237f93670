"""Where rows that stay come from while a request is carried out: the memory, or all of them."""

from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray

from clujax.continual import memory as memories
from clujax.continual.method import Learner, Scene
from clujax.continual.request import Change
from clujax.errors import RequestError


def check_replay(learner: Learner, change: Change, replay: str) -> None:
    """Refuse a request whose remaining rows nothing would keep.

    Raises:
      RequestError: rows remain, and the memory that should keep them is empty.
    """
    if replay == "memory" and len(change.remain) and not int(memories.size(learner.memory)):
        raise RequestError(
            f"{len(change.remain)} rows remain and memory holds none of them, so nothing would keep them: give memory a"
            " capacity, or set replay='remain' where the rows themselves are still there."
        )


def replay_at(
    scene: Scene, learner: Learner, change: Change, replay: str, batch_size: int, key: PRNGKeyArray
) -> Callable | None:
    """`batch_at(step)` of rows that stay, from "memory" or of all that "remain"; None where nothing remains."""
    if not len(change.remain):
        return None
    if replay == "remain":
        return scene.batches(change.remain, batch_size, key)
    held = learner.memory
    return lambda step: memories.sample(held, jax.random.fold_in(key, step), batch_size)
