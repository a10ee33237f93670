"""A request as someone asks for it: a line of JSON with an id, and rows or whole classes."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from clujax.continual.request import FORGOTTEN, LEARNED, NEVER, Request
from clujax.errors import RequestError


class Asked(NamedTuple):
    """Rows by number, or whole classes as they stand when the request's turn comes.

    Attributes:
      name: the request's id.
      learn, forget: row numbers.
      learn_classes: classes whose rows are to be learned that never were (with `relearn`, forgotten rows too).
      forget_classes: classes whose learned rows are to be forgotten.
      task, relearn: as in `Request`.
    """

    name: str
    learn: Sequence[int] | Integer[np.ndarray, " n_l"] = ()
    forget: Sequence[int] | Integer[np.ndarray, " n_f"] = ()
    learn_classes: Sequence[int] = ()
    forget_classes: Sequence[int] = ()
    task: int | None = None
    relearn: bool = False


_KEYS = {"id": "name"} | {name: name for name in Asked._fields if name != "name"}


def from_line(line: str) -> Asked:
    """Read `{"id": "r-17", "learn": [4, 5], "forget": [2], "task": 3, "relearn": false}`; all but the id may be left out.

    Raises:
      RequestError: the line is no such object; nothing is guessed.
    """
    try:
        fields = json.loads(line, object_pairs_hook=_once)
    except RecursionError:
        raise RequestError("the line is nested too deeply.") from None
    except ValueError as error:
        raise RequestError(f"the line is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RequestError(f"the line is a JSON {type(fields).__name__}; expected an object with an id.")
    for key in fields.keys() - _KEYS.keys():
        near = difflib.get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(_KEYS)}."
        raise RequestError(f"the line has an unknown key {key!r}: {hint}")
    name = fields.get("id")
    if not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
        raise RequestError(f"id is {name!a:.40}; expected a printable text of its own for each request.")
    for key in ("learn", "forget", "learn_classes", "forget_classes"):
        for number in _list(key, fields.get(key, [])):
            if not (_is_whole(number) and abs(number) < 1 << 63):
                raise RequestError(f"{key} holds {number!r:.40}; expected whole numbers.")
    if not (fields.get("task") is None or _is_whole(fields["task"])):
        raise RequestError(f"task is {fields['task']!r:.40}; expected a whole number or null.")
    if not isinstance(fields.get("relearn", False), bool):
        raise RequestError(f"relearn is {fields['relearn']!r:.40}; expected true or false.")
    return Asked(**{_KEYS[key]: value for key, value in fields.items()})


def as_asked(request: Request | Asked) -> Asked:
    """A request of either form in the wider one."""
    if isinstance(request, Asked):
        return request
    return Asked(request.name, request.learn, request.forget, task=request.task, relearn=request.relearn)


def numbers(asked: Asked) -> list[Integer[np.ndarray, " n"]]:
    """`learn`, `forget`, `learn_classes` and `forget_classes` as ascending arrays.

    Raises:
      RequestError: one of them holds something else than whole numbers.
    """
    found = []
    for name in ("learn", "forget", "learn_classes", "forget_classes"):
        given = np.asarray(getattr(asked, name))
        if given.size and not (given.ndim == 1 and np.issubdtype(given.dtype, np.integer)):
            raise RequestError(
                f"{name} of request {asked.name!r} has shape {given.shape}, dtype {given.dtype}; expected a list of whole "
                "numbers."
            )
        found.append(np.sort(given) if given.size else np.zeros(0, np.int64))
    return found


def resolve(asked: Asked, labels: Int[np.ndarray, " N"], status: Int[np.ndarray, " N"]) -> Request:
    """The request with its classes turned into the rows that they are now.

    Raises:
      RequestError: a class has no such rows.
    """
    unlearned = np.isin(status, (NEVER, FORGOTTEN) if asked.relearn else (NEVER,))
    sides = {}
    for name, rows, classes, eligible, what in (
        ("learn", asked.learn, asked.learn_classes, unlearned, "to learn"),
        ("forget", asked.forget, asked.forget_classes, status == LEARNED, "that are learned"),
    ):
        empty = sorted(set(classes) - set(labels[eligible].tolist()))
        if empty:
            raise RequestError(f"classes {', '.join(map(str, empty[:10]))} have no rows {what}.")
        found = np.flatnonzero(eligible & np.isin(labels, list(classes)))
        sides[name] = np.union1d(np.asarray(rows, np.int64), found) if classes else rows
    return Request(**sides, task=asked.task, relearn=asked.relearn, name=asked.name)


def _once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise RequestError("the line has a key twice; which of the two is meant?")
    return fields


def _list(key: str, value: Any) -> list:
    if not isinstance(value, list):
        raise RequestError(f"{key} is {value!r:.40}; expected a list of numbers.")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
