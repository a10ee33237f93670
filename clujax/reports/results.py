"""The files of a finished run, read and checked against the contract of `clujax.reports`."""

import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clujax.errors import DataNotFoundError

_REQUEST_KEYS = ("name", "metrics", "methods", "reference")
_METRIC_KEYS = ("key", "label", "unit", "direction", "ideal", "explain")
_DIRECTIONS = ("closer to retrain", "lower", "higher")


class Run(NamedTuple):
    """What a run left behind: its directory, `result.json`, and one dict of arrays per request."""

    path: pathlib.Path
    result: dict[str, Any]
    evidence: Sequence[Mapping[str, np.ndarray]]


def read(workdir: str | pathlib.Path) -> Run:
    """The result files of `workdir`.

    Raises:
        DataNotFoundError: there is no `result.json`, or it (or an evidence file) does not hold what it must.
    """
    path = pathlib.Path(workdir)
    file = path / "result.json"
    if not file.is_file():
        state = "has no result.json: the run has not finished" if path.is_dir() else "does not exist"
        raise DataNotFoundError(f"{path} {state}. `clujax run CONFIG --workdir {path}` writes it (and resumes a run).")
    try:
        result = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise DataNotFoundError(f"{file} is not JSON ({error}). Remove it and run the config again.") from error
    check(result, str(file))
    for request in result["requests"]:
        request["methods"] = _ordered(request)
    return Run(path, result, [_arrays(path / f"evidence_{i}.npz") for i in range(len(result["requests"]))])


def check(result: Mapping[str, Any], name: str = "result") -> None:
    """Refuse a result that lacks a key the report stands on; the message says which, and where.

    Raises:
        DataNotFoundError: naming the first key that is missing or does not fit.
    """

    def need(holder: Any, keys: Sequence[str], where: str) -> None:
        missing = [key for key in keys if not isinstance(holder, Mapping) or key not in holder]
        if missing:
            raise DataNotFoundError(
                f"{where} lacks {', '.join(map(repr, missing))}; see the contract in clujax.reports."
            )

    need(result, ("title", "requests"), name)
    for i, request in enumerate(result["requests"]):
        where = f"{name}: requests[{i}]"
        need(request, _REQUEST_KEYS, where)
        for metric in request["metrics"]:
            need(metric, _METRIC_KEYS, f"{where}: metric {metric.get('key', '?')!r}")
            if metric["direction"] not in _DIRECTIONS:
                raise DataNotFoundError(
                    f"{where}: metric {metric['key']!r} has direction {metric['direction']!r}; expected one of "
                    f"{', '.join(_DIRECTIONS)}."
                )
        for method in request["methods"]:
            need(method, ("key", "label", "values"), f"{where}: method {method.get('key', '?')!r}")
        keys = [method["key"] for method in request["methods"]]
        if request["reference"] not in keys:
            raise DataNotFoundError(f"{where}: reference {request['reference']!r} is not among its methods {keys}.")


def method(request: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The entry of one method, or None."""
    return next((each for each in request["methods"] if each["key"] == key), None)


def retrained(request: Mapping[str, Any], method: Mapping[str, Any]) -> bool:
    """Whether a method is the reference or a second run of it, such as retrain_again or oracle_again."""
    return "retrain" in method["key"] or method["key"].startswith(request["reference"])


def focus(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The method that the report talks about: `focus`, else sfron, else the first neither given nor retrained."""
    for key in (request.get("focus"), "sfron"):
        if key and (found := method(request, key)):
            return found
    others = [each for each in request["methods"] if each["key"] != "original" and not retrained(request, each)]
    return others[0] if others else None


def title(request: Mapping[str, Any]) -> str:
    """What a request is called where people read it."""
    return request.get("label") or request["name"]


def distance(request: Mapping[str, Any], method: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[float, bool]:
    """How far a method is from the reference, and whether that has a sign.

    The distance is the gap, or that of the value to an ideal which is a number; nan for neither. It carries the sign of
    (method - reference) where that is as large, i.e. where all seeds lie on the same side.
    """
    key, value = metric["key"], method["values"].get(metric["key"])
    gap = (method.get("gap") or {}).get(key)
    if isinstance(metric["ideal"], (int, float)) and value is not None:
        gap = abs(value - metric["ideal"])
    if gap is None or not np.isfinite(gap):
        return float("nan"), False
    origin = next(each["values"].get(key) for each in request["methods"] if each["key"] == request["reference"])
    if metric["direction"] == "closer to retrain" and value is not None and origin is not None:
        difference = value - origin
        if np.isclose(abs(difference), abs(gap), rtol=1e-3, atol=1e-6):
            return float(difference), True
    return abs(float(gap)), False


def number(value: Any, unit: str = "", *, signed: bool = False) -> str:
    """A value in few digits: one decimal for percentages, two significant figures below 1, a dash for nothing.

    Beyond 100,000 a power of ten is enough.

    Example:
        >>> number(89.14, "%"), number(0.1372), number(12.345), number(2.3e7), number(None), number(-2.5, "%", signed=True)
        ('89.1', '0.14', '12.3', '2e+07', '–', '−2.5')
    """
    if value is None or not np.isfinite(value):
        return "–"
    if signed:
        size = number(abs(value), unit)
        return size if float(size) == 0 else f"{'+' if value > 0 else '−'}{size}"
    if abs(value) >= 1e5:
        return f"{value:.0e}"
    if unit in ("%", "s") or abs(value) >= 10:
        return f"{value:.1f}"
    return (
        f"{value:.2f}"
        if abs(value) >= 0.095 or value == 0
        else f"{value:.3f}"
        if abs(value) >= 1e-3
        else f"{value:.0e}"
    )


def _ordered(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # What was given and what it is measured against come first, the method that the report is about comes last.
    ours = focus(request)

    def rank(method: Mapping[str, Any]) -> int:
        if method["key"] == "original":
            return 0
        if method["key"] == request["reference"]:
            return 1
        return 2 if retrained(request, method) else 4 if method is ours else 3

    return sorted(request["methods"], key=rank)


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataNotFoundError(f"{file} cannot be read ({error}). Remove it and run the config again.") from error
