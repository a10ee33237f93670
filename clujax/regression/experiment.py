"""One regression run: table, split, choice, fit, baselines. With `settings`, the only file here that reads a config."""

import itertools
import json
import pathlib
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.progress import Progress, TimeElapsedColumn

from clujax import configuration, data, training
from clujax.adaptation.settings import build_mesh
from clujax.errors import ConfigError
from clujax.regression import results, tables
from clujax.regression.checkpoints import fit_with_checkpoints
from clujax.regression.choice import choose, choose_size, error_rate, mean_squared
from clujax.regression.fit import FitOptions, predict
from clujax.regression.report import classification_metrics, regression_metrics, sparsity_report
from clujax.regression.settings import epochs, fit_options, named


class Rows(NamedTuple):
    """Training and test rows of one seed."""

    x: np.ndarray
    y: np.ndarray
    new: np.ndarray
    truth: np.ndarray


class Task(NamedTuple):
    """What a run is about, before any seed is drawn."""

    rows: Callable[[int], Rows]
    features: tuple[str, ...]
    target: str
    classes: tuple[str, ...]  # none for a regression
    source: data.Source


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Fit and compare on every seed of the config; write `result.json` and the evidence beside it.

    A run that was stopped keeps every finished cell, and goes on within a fit at its last growth round; a finished run
    returns its result as it is.

    Raises:
        ConfigError, DataNotFoundError: before any training, and before the directory is claimed.
    """
    begin, workdir = time.perf_counter(), pathlib.Path(workdir)
    task = task_of(config)
    methods = {name: named(METHODS, name, "compare") for name in config.compare}
    options_of(config, task, len(task.rows(config.seeds[0]).x))
    if task.classes and (wrong := set(methods) - set(MODES)):
        raise ConfigError(
            f"compare names {', '.join(sorted(wrong))}, made for one target; these serve classes: {', '.join(MODES)}"
        )
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((workdir / training.workdir.RESULT).read_text())
    cells: dict[str, list[dict]] = {name: [] for name in ("lab", *methods)}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        bar = progress.add_task("fits", total=len(config.seeds) * len(cells))
        for seed in config.seeds:
            rows = task.rows(seed)
            for name in cells:
                place = workdir / "stages" / f"seed{seed}" / name
                cells[name].append(
                    cell(place, lambda n=name, p=place, r=rows, s=seed: METHODS[n](config, task, r, s, p))
                )
                progress.advance(bar)
    chosen = [record["settings"] for record in cells["lab"]]
    result = {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": task.source._asdict(),
        "seeds": list(config.seeds),
        "requests": [],
        "regression": results.record(task, task.rows(config.seeds[0]), cells, config.data.name) | {"chosen": chosen},
        "wall_seconds": time.perf_counter() - begin,
    }
    training.workdir.write_result(workdir, result | training.workdir.environment())
    return result


def cell(place: pathlib.Path, measure: Callable[[], dict]) -> dict:
    """What was measured before at this place, else what is measured now."""
    file = place / "cell.json"
    if not file.exists():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            begin = time.perf_counter()
            found = measure()
        found["seconds"] = time.perf_counter() - begin
        found["warnings"] = sorted({str(each.message) for each in caught if issubclass(each.category, UserWarning)})
        training.workdir.write_json(file, found)
    return json.loads(file.read_text())


def task_of(config: ConfigDict) -> Task:
    """The rows of a config: a table to regress, or labelled rows to classify."""
    if config.task not in ("regression", "classification"):
        raise ConfigError(f"task is {config.task!r}; expected regression or classification")
    if config.task == "classification":
        return classes_of(config)
    table = tables.load_table(config.data.name, path=config.data.path, target=config.data.target)
    share = config.data.test_share
    if not 0 < share < 1:
        raise ConfigError(f"data.test_share is {share}; expected a share between 0 and 1")

    def rows(seed: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(table.y))
        test, train = np.split(order, [max(1, round(share * len(order)))])
        return Rows(table.x[train], table.y[train], table.x[test], table.y[test])

    return Task(rows, table.features, table.target, (), table.source)


def classes_of(config: ConfigDict) -> Task:
    """Labelled rows as one-hot targets; the training rows of a seed are the first of a permutation."""
    found = data.load(config.data.name, path=config.data.path)
    flat = lambda part: np.asarray(part["x"], np.float32).reshape(len(part["y"]), -1)
    x, new, eye = flat(found.train), flat(found.test), np.eye(len(found.classes))
    count = config.data.train_rows or len(x)

    def rows(seed: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(x))[:count]
        return Rows(x[order], eye[np.asarray(found.train["y"])[order]], new, eye[np.asarray(found.test["y"])])

    return Task(rows, tuple(f"x{i}" for i in range(x.shape[1])), "class", found.classes, found.source)


def options_of(config: ConfigDict, task: Task, rows: int, **more: Any) -> FitOptions:
    """Options of the fit from the config; epochs become steps of its rows."""
    fields = config.fit.to_dict()
    for stage in ("grow", "final"):
        count = fields.pop(f"{stage}_epochs", None)
        if count is not None:
            fields[f"{stage}_steps"] = epochs(count, rows, fields["batch_size"])
    if task.classes:
        fields |= {"scale_y": False, "clip": False}
    return fit_options(**(fields | more))


def chosen_options(config: ConfigDict, task: Task, rows: Rows, seed: int, **more: Any) -> tuple[FitOptions, dict]:
    """Options with what the section `choose` asks for chosen on held-out training rows."""
    section = config.get("choose")
    plain = {key: config.fit[key] for key in ("kernel", "ridge", "bandwidth")}
    if not section:
        return options_of(config, task, len(rows.x), **more), plain
    grid = [dict(zip(plain, each)) for each in itertools.product(section.kernels, section.ridges, section.bandwidths)]
    candidates = [options_of(config, task, len(rows.x), **each, **more) for each in grid]
    found = choose(
        jax.random.key(seed + 1000), rows.x, rows.y, candidates, share=section.share,
        error=error_rate if task.classes else mean_squared, grow_steps=section.grow_steps, final_steps=section.final_steps,
    )  # fmt: skip
    settings = grid[int(np.argmin(found.errors))]
    options = options_of(config, task, len(rows.x), **settings, **more)
    if section.size:
        options = choose_size(jax.random.key(seed + 3000), rows.x, rows.y, options, share=section.share)
        settings = settings | {name: getattr(options, name) for name in ("n_max", "final_steps")}
    return options, settings


def scores(task: Task, prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The task's metrics."""
    return classification_metrics(prediction, truth) if task.classes else regression_metrics(prediction, truth)


def lab(config, task, rows, seed, place, mode=None) -> dict:
    """Choose, fit with checkpoints, measure; the evidence of the first seed is kept beside the result."""
    more = {} if mode is None else {"bandwidth_mode": mode}
    options, settings = chosen_options(config, task, rows, seed, **more)
    mesh = build_mesh(config)
    watched = (rows.new, rows.truth)
    model, state = fit_with_checkpoints(
        place / "checkpoints", jax.random.key(seed), rows.x, rows.y, options, watched=watched, mesh=mesh
    )
    prediction = predict(model, rows.new, mesh=mesh)
    if mode is None and seed == config.seeds[0]:
        file = place.parents[2] / "evidence_regression.npz"
        results.write_evidence(file, task, rows, model, state, prediction, tuple(config.figures.features))
    report = sparsity_report(model, rows.x, rows.y, options.ridge)
    return {"values": scores(task, prediction, rows.truth) | {"support": len(state.support)}, "settings": settings,
            "history": state.history, "report": report}  # fmt: skip


def machine(fit: Callable) -> Callable:
    """A baseline as a method of this run."""

    def measure(config, task, rows, seed, place) -> dict:
        found = fit(jax.random.key(seed + 2000), rows.x, rows.y)
        values = scores(task, found.predict(rows.new), rows.truth) | {"support": found.support}
        return {"values": values, "settings": found.settings}

    return measure


def baseline(name: str, **more: Any) -> Callable:
    """A baseline by name; its file is read when it is asked for, since it may need scikit-learn."""

    def fit(key, x, y):
        from clujax.regression import baselines

        arguments = {key: getattr(baselines, value) for key, value in more.items()}
        return getattr(baselines, name)(key, x, y, **arguments)

    return machine(fit)


def mode_of(name: str) -> Callable:
    """The same fit with bandwidths tied."""
    return lambda config, task, rows, seed, place: lab(config, task, rows, seed, place, mode=name)


MODES = {name: mode_of(name) for name in ("ard", "scalar", "local_scalar")}
METHODS: Mapping[str, Callable] = {
    "lab": lab,
    "krr_rbf": baseline("kernel_ridge", kernel="rbf"),
    "krr_laplace": baseline("kernel_ridge", kernel="laplace"),
    "svr": baseline("support_vector"),
    "resnet": baseline("residual_network"),
    **MODES,
}
