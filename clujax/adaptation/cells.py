"""A comparison of methods over seeds, cell by cell: a cell that is finished is never done again."""

import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.progress import Progress, TimeElapsedColumn

from clujax import configuration, training

Measure = Callable[[Any, Any, int, pathlib.Path, Progress], dict[str, Any]]


def fill(
    workdir: pathlib.Path,
    seeds: Sequence[int],
    methods: Mapping[str, Any],
    prepare: Callable[[int, Progress], Any],
    measure: Measure,
) -> dict[str, list[dict]]:
    """Every method on every seed, with a progress bar.

    Args:
        workdir: of the run; a cell's files are in `stages/seedS/METHOD`.
        seeds: in their order.
        methods: by name, as `measure` takes them.
        prepare: what the methods of a seed share; called where one of its cells is missing.
        measure: (what was prepared, method, seed, the cell's directory, progress) -> the cell as JSON.

    Returns:
        The cells of each method, a seed after the other.
    """
    cells: dict[str, list[dict]] = {name: [] for name in methods}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        bar = progress.add_task("methods and seeds", total=len(seeds) * len(methods))
        for seed in seeds:
            places = {name: workdir / "stages" / f"seed{seed}" / name / "cell.json" for name in methods}
            missing = [name for name, place in places.items() if not place.exists()]
            shared = prepare(seed, progress) if missing else None
            for name, place in places.items():
                if name in missing:
                    training.workdir.write_json(place, measure(shared, methods[name], seed, place.parent, progress))
                cells[name].append(json.loads(place.read_text()))
                progress.advance(bar)
    return cells


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of every number; no deviation of one seed.

    Example:
        >>> summary([{"nll": 1.0}, {"nll": 2.0}])["values"]
        {'nll': 1.5}
    """
    over = lambda reduce: {name: float(reduce([each[name] for each in values])) for name in values[0]}
    return {"values": over(np.mean), "std": over(lambda found: np.std(found, ddof=1)) if len(values) > 1 else {}}


def result(config: ConfigDict, sources: Sequence[dict], begin: float, **record: Any) -> dict[str, Any]:
    """What `result.json` of a comparison says: whose it is, its data, its time since `begin`, and the system's record."""
    return {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": sources[0],
        "sources": list(sources),
        "seeds": list(config.seeds),
        "requests": [],
        **record,
        "wall_seconds": time.perf_counter() - begin,
    }
