"""Streams of requests over the classes of a data set, written as words: "L1", "U2", "L3+U{0,2}", "U10%"."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from clujax.continual.request import FORGOTTEN, LEARNED, NEVER, Request
from clujax.errors import ConfigError

_WORD = re.compile(r"L(?P<learn>\d+)|U(?P<task>\d+)|U(?:(?P<share>[\d.]+)%)?(?:\{(?P<classes>[\d,\s]+)\})?")


def make_stream(
    words: Sequence[str],
    labels: Int[np.ndarray, " N"],
    tasks: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    task_aware: bool = False,
) -> list[Request]:
    """Requests in order.

    Args:
      words: one request each, parts joined by "+". `L3` learns the classes of task 3 (the first is 1), `U2` forgets what is
        left of task 2, `U{0,2}` forgets those classes, `U10%` that share of all rows learned so far, drawn at random,
        `U10%{0,2}` that share of the learned rows of those classes.
      labels: of all training rows.
      tasks: classes of each task.
      seed: of the random shares.
      task_aware: give each request its task's number; its words may then name one task only.

    Raises:
      ConfigError: a word that is none, a task or class that does not exist, or a request that names several tasks in a
        task-aware stream.

    Example:
      >>> [len(r.learn) for r in make_stream(("L1", "L2+U50%"), np.array([0, 0, 1, 1]), ((0,), (1,)))]
      [2, 2]
    """
    classes = np.unique(labels)
    for task in tasks:
        if len(np.setdiff1d(task, classes)):
            raise ConfigError(f"tasks has the classes {tuple(task)}; the training rows have {classes.tolist()}.")
    status, rng, found = np.zeros(len(labels), np.int8), np.random.default_rng(seed), []
    for word in words:
        learn, forget, named = [], [], set()
        for part in word.split("+"):
            match = _WORD.fullmatch(part.strip())
            if match is None or part.strip() == "U":
                raise ConfigError(
                    f"request {word!r}: {part!r} is none of L<task>, U<task>, U{{classes}}, U<share>%, U<share>%{{classes}}."
                )
            number = match["learn"] or match["task"]
            if number is not None and not 1 <= int(number) <= len(tasks):
                raise ConfigError(f"request {word!r}: there is no task {number}; tasks are 1 … {len(tasks)}.")
            named |= {int(number)} if number else {0}
            if match["learn"]:
                learn.append(np.flatnonzero(np.isin(labels, tasks[int(number) - 1]) & (status == NEVER)))
            else:
                forget.append(_forgotten(match, labels, tasks, status == LEARNED, rng))
        if task_aware and (len(named) != 1 or named == {0}):
            raise ConfigError(f"request {word!r}: in a task-aware stream a request learns or forgets one task.")
        learn, forget = (
            np.unique(np.concatenate([*rows, np.zeros(0, np.int64)])).astype(np.int64) for rows in (learn, forget)
        )
        found.append(Request(learn, forget, named.pop() if task_aware else None, name=word))
        status[forget], status[learn] = FORGOTTEN, LEARNED
    return found


def _forgotten(match, labels, tasks, learned, rng):
    if match["task"]:
        return np.flatnonzero(learned & np.isin(labels, tasks[int(match["task"]) - 1]))
    among = learned
    if match["classes"]:
        among = learned & np.isin(labels, [int(kind) for kind in match["classes"].split(",")])
    rows = np.flatnonzero(among)
    if match["share"] is None:
        return rows
    return rng.choice(rows, round(len(rows) * float(match["share"]) / 100), replace=False)
