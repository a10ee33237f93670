"""A request of a stream: rows to learn, rows to forget, or both; checked against what is learned already."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from clujax.errors import RequestError

NEVER, LEARNED, FORGOTTEN = 0, 1, 2


class Request(NamedTuple):
    """Rows by number (their place in the training columns); in one request no row is both learned and forgotten.

    Attributes:
      learn, forget: row numbers, in any order.
      task: number of the task that is learned or forgotten, in task-aware streams only.
      relearn: allows `learn` to hold rows that were forgotten before.
      name: the request's id, for the record.
    """

    learn: Sequence[int] | Integer[np.ndarray, " n_l"] = ()
    forget: Sequence[int] | Integer[np.ndarray, " n_f"] = ()
    task: int | None = None
    relearn: bool = False
    name: str = ""


class Change(NamedTuple):
    """A checked request: ascending row numbers, `remain` being the rows that were learned and stay."""

    learn: Int[np.ndarray, " n_l"]
    forget: Int[np.ndarray, " n_f"]
    remain: Int[np.ndarray, " n_r"]
    task: int | None = None


def check_request(
    request: Request,
    status: Int[np.ndarray, " N"],
    *,
    tasks: Int[np.ndarray, " N"] | None = None,
    task_aware: bool = False,
) -> Change:
    """Find what a request changes, or refuse it; nothing is changed here.

    Args:
      request: to check.
      status: of every training row, `NEVER`, `LEARNED` or `FORGOTTEN`.
      tasks: the task that each row was learned with, −1 for none; needed in task-aware streams.
      task_aware: requests carry a task, and forget a whole earlier one.

    Raises:
      RequestError: naming what is wrong and the first ten rows.
    """
    learn, forget = (_rows(name, getattr(request, name), len(status)) for name in ("learn", "forget"))
    if not learn.size and not forget.size:
        raise RequestError("the request is empty: give rows to learn, to forget, or both.")
    _refuse(np.intersect1d(learn, forget), "are to be learned and forgotten at once; which of the two is meant?")
    _refuse(forget[status[forget] == NEVER], "are to be forgotten but were never learned.")
    _refuse(forget[status[forget] == FORGOTTEN], "are to be forgotten but are forgotten already.")
    _refuse(learn[status[learn] == LEARNED], "are to be learned but are learned already.")
    if not request.relearn:
        _refuse(
            learn[status[learn] == FORGOTTEN],
            "are to be learned but were forgotten on request; set relearn if that is meant.",
        )
    if task_aware:
        _check_task(request, forget, status, tasks)
    elif request.task is not None:
        raise RequestError(
            f"task is {request.task}, but this stream is task-agnostic: leave it out, or make the stream task-aware."
        )
    remain = np.setdiff1d(np.flatnonzero(status == LEARNED), forget)
    return Change(learn, forget, remain, request.task)


def standing_after(status: Int[np.ndarray, " N"], change: Change) -> Int[np.ndarray, " N"]:
    """The status of every row once a change is carried out."""
    status = status.copy()
    status[change.forget], status[change.learn] = FORGOTTEN, LEARNED
    return status


def _check_task(request, forget, status, tasks):
    if request.task is None:
        raise RequestError("the request has no task, but this stream is task-aware: give the task's number.")
    if forget.size:
        whole = np.flatnonzero((tasks == request.task) & (status == LEARNED))
        _refuse(np.setdiff1d(forget, whole), f"are to be forgotten but are not of task {request.task}.")
        _refuse(np.setdiff1d(whole, forget), f"of task {request.task} would stay; a task is forgotten whole.")


def _rows(name: str, given: Any, count: int) -> np.ndarray:
    rows = np.asarray(given)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise RequestError(f"{name} has shape {rows.shape}, dtype {rows.dtype}; expected a list of row numbers.")
    kinds, counts = np.unique(rows, return_counts=True)
    _refuse(kinds[(kinds < 0) | (kinds >= count)], f"of {name} do not exist; rows are 0 … {count - 1}.")
    _refuse(kinds[counts > 1], f"stand more than once in {name}.")
    return kinds.astype(np.int64)


def _refuse(rows: np.ndarray, why: str) -> None:
    if rows.size:
        first = ", ".join(map(str, rows[:10].tolist()))
        more = f" and {rows.size - 10} more" if rows.size > 10 else ""
        raise RequestError(f"rows {first}{more} {why}")
