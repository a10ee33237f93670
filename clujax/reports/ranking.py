"""Several runs on one scale: per request a ranking by average distance, and the mean rank over requests."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clujax.errors import RequestError
from clujax.reports import compare, results
from clujax.reports.results import Run


class Entry(NamedTuple):
    """One method of one run: its place on a board, or None where it stands beside the ranking."""

    rank: int | None
    tied: bool  # with the best, within the noise of retraining
    method: Mapping[str, Any]
    request: Mapping[str, Any]
    run: Run


class Board(NamedTuple):
    """One request: the same name, split and data in every run that carries it."""

    title: str
    split_hash: str
    data: str
    noise: float | None  # average distance of two retrained networks
    entries: tuple[Entry, ...]


class Standing(NamedTuple):
    """A method over all boards: its rank on each (None where it is not ranked) and their mean."""

    label: str
    ranks: tuple[int | None, ...]
    mean: float
    complete: bool  # ranked on every board


def boards(runs: Sequence[Run]) -> list[Board]:
    """The rankings of several runs, request by request.

    Methods go by mean average distance, collapsed ones last, then those without a finite one. Those within the noise
    floor of the best share rank 1. The given and the retrained networks stand among them
    without a rank.

    Args:
        runs: as `read` returns them; a request is the same where name, split hash and data are.

    Raises:
        RequestError: a run is given twice, has no average distance, or measures the same request by other metrics or
            to another reference than a run before it.
    """
    _distinct(runs)
    groups: dict[tuple[str, str, str], list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for request in run.result["requests"]:
            if compare.average(request) is None:
                raise RequestError(
                    f"{run.path}: request {request['name']!r} has no metric AvgD, by which a leaderboard ranks; leave "
                    "this run out, or write the average distance into its result.json."
                )
            groups.setdefault(_identity(run, request), []).append((run, request))
    for entries in groups.values():
        for other in entries[1:]:
            _comparable(entries[0], other)
    return [_board(identity, entries) for identity, entries in groups.items()]


def overall(boards: Sequence[Board]) -> list[Standing]:
    """Mean rank of every method over the boards: first those that all boards rank, then the others.

    A method is known by its key; where a board ranks the key more than once, by its key and its run.
    """
    several = {key for board in boards for key in _repeated(board)}
    ranks: dict[tuple[str, str], dict[int, int]] = {}
    labels = {}
    for i, board in enumerate(boards):
        for entry in board.entries:
            key = entry.method["key"]
            who = (key, str(entry.run.path) if key in several else "")
            labels.setdefault(who, entry.method["label"] + (f" ({entry.run.path.name})" if key in several else ""))
            if entry.rank is not None:
                ranks.setdefault(who, {})[i] = entry.rank
    found = [
        Standing(
            labels[who],
            tuple(places.get(i) for i in range(len(boards))),
            sum(places.values()) / len(places),
            len(places) == len(boards),
        )
        for who, places in ranks.items()
    ]
    return sorted(found, key=lambda each: (not each.complete, each.mean))


def run_names(runs: Sequence[Run]) -> dict[pathlib.Path, str]:
    """What each run is called: its directory's name, with those above it where two are named alike."""
    names = {}
    for run in runs:
        parts = run.path.resolve().parts
        others = [other.path.resolve().parts for other in runs if other.path.resolve() != run.path.resolve()]
        depth = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        names[run.path] = "/".join(parts[-depth:])
    return names


def _distinct(runs: Sequence[Run]) -> None:
    seen = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise RequestError(f"{run.path} is given twice; name each run once.")
        seen.add(run.path.resolve())


def _identity(run: Run, request: Mapping[str, Any]) -> tuple[str, str, str]:
    source = run.result.get("source") or {}
    data = source.get("sha256") or json.dumps(source, sort_keys=True, default=str)
    return request["name"], str(request.get("split_hash") or ""), str(data)


def _comparable(first: tuple[Run, Mapping[str, Any]], other: tuple[Run, Mapping[str, Any]]) -> None:
    (run, request), (late, later) = first, other
    both = f"{run.path} and {late.path}"
    known, new = _metrics(request), _metrics(later)
    if known != new:
        differ = sorted(key for key in known.keys() | new.keys() if known.get(key) != new.get(key))
        raise RequestError(
            f"{both} measure the request {request['name']!r} by different metrics ({', '.join(differ)}); run both with "
            "the same version, or make a leaderboard of each."
        )
    if request["reference"] != later["reference"]:
        raise RequestError(
            f"{both} measure the request {request['name']!r} to different references ({request['reference']!r} and "
            f"{later['reference']!r}); make a leaderboard of each."
        )
    for key in known:
        values = [results.method(each, each["reference"])["values"].get(key) for each in (request, later)]
        if _differs(values, [(each.get("noise_floor") or {}).get(key) for each in (request, later)], known[key][0]):
            told = " and ".join(results.number(value, known[key][0]) for value in values)
            raise RequestError(
                f"{both} measure the request {request['name']!r} to different references: their {request['reference']} "
                f"has {key} {told}, further apart than the noise floor. Run both from the same retrained network (same "
                "training settings and seeds), or make a leaderboard of each."
            )


def _metrics(request: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    # What no method has a value of is listed by some versions and not by others.
    held = {key for method in request["methods"] for key in method["values"]}
    return {
        metric["key"]: (metric["unit"], metric["direction"], metric["ideal"])
        for metric in request["metrics"]
        if metric["key"] in held
    }


def _differs(values: Sequence[float | None], floors: Sequence[float | None], unit: str) -> bool:
    # Seconds of the same training differ between any two machines.
    if unit == "s" or not all(value is not None and math.isfinite(value) for value in values):
        return False
    noise = max((floor for floor in floors if floor is not None), default=0.0)
    return abs(values[0] - values[1]) > max(noise, 1e-3 * max(map(abs, values)))


def _board(identity: tuple[str, str, str], entries: Sequence[tuple[Run, Mapping[str, Any]]]) -> Board:
    request = entries[0][1]
    key = compare.average(request)["key"]
    floors = [(each.get("noise_floor") or {}).get(key) for _, each in entries]
    noise = max((floor for floor in floors if floor is not None), default=None)
    ranked, beside = [], {}
    for run, each in entries:
        rivals = compare.rivals(each)
        ranked += [(run, each, method) for method in rivals]
        # What was given and retrained is the same in all runs: the first tells of it.
        for method in each["methods"]:
            if not any(method is rival for rival in rivals):
                beside.setdefault(method["key"], Entry(None, False, method, each, run))
    ranked.sort(key=_key)
    placed = _placed(ranked, noise)
    for entry in beside.values():
        distance = compare.standing(entry.request, entry.method)
        sound = (i for i, each in enumerate(placed) if _worse(each, distance))
        placed.insert(next(sound, len(placed)), entry)
    return Board(results.title(request), identity[1], _data(entries[0][0]), noise, tuple(placed))


def _class(item: tuple[Run, Mapping[str, Any], Mapping[str, Any]]) -> tuple[bool, bool]:
    _, request, method = item
    return not math.isfinite(compare.standing(request, method)), compare.collapsed(method)


def _key(item: tuple[Run, Mapping[str, Any], Mapping[str, Any]]) -> tuple[bool, bool, float]:
    return *_class(item), compare.standing(item[1], item[2])


def _placed(ranked: Sequence[tuple[Run, Mapping[str, Any], Mapping[str, Any]]], noise: float | None) -> list[Entry]:
    placed: list[Entry] = []
    best = next((compare.standing(*item[1:]) for item in ranked if _class(item) == (False, False)), math.nan)
    for i, item in enumerate(ranked):
        run, request, method = item
        distance = compare.standing(request, method)
        near = _class(item) == (False, False) and noise is not None and distance <= best + noise
        equal = i > 0 and _key(item) == _key(ranked[i - 1])
        rank = None if _class(item)[0] else 1 if near else placed[-1].rank if equal else i + 1
        placed.append(Entry(rank, near, method, request, run))
    alone = sum(entry.tied for entry in placed) == 1
    return [entry._replace(tied=entry.tied and not alone) for entry in placed]


def _worse(entry: Entry, distance: float) -> bool:
    return compare.collapsed(entry.method) or compare.standing(entry.request, entry.method) > distance


def _repeated(board: Board) -> set[str]:
    keys = [entry.method["key"] for entry in board.entries if entry.rank is not None]
    return {key for key in keys if keys.count(key) > 1}


def _data(run: Run) -> str:
    source = run.result.get("source") or {}
    name = " ".join(str(source[key]) for key in ("path", "version") if source.get(key))
    return f"{name} ({source['sha256'][:12]})" if source.get("sha256") else name
