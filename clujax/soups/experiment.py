"""One run: a pool from fine-tuning or from disk, a soup by every method on every seed, measured.

Only `settings` and `finetuning` read a config too.
"""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import data, models, training
from clujax.adaptation.cells import fill, result
from clujax.adaptation.predictions import judged
from clujax.adaptation.pretraining import pretrained
from clujax.adaptation.settings import build_classifier, lookup
from clujax.errors import ConfigError
from clujax.geometry.mixing import KEPT
from clujax.geometry.paths import named, shown
from clujax.soups import averages, finetuning, results
from clujax.soups.diagnostics import check_basin
from clujax.soups.objective import Objective, cross_entropy
from clujax.soups.pools import OrbaxPool, Pool, load_checked
from clujax.soups.recipe import recipe_of, save_recipe
from clujax.soups.settings import Held, Method, method


class Task(NamedTuple):
    """One seed: the methods' side, and the rows to measure on."""

    held: Held
    judge: Callable[[PyTree], dict[str, float]]


class Subject(NamedTuple):
    """What a run is about before a seed is drawn: network, objective, data in [0, 1]."""

    network: models.Classifier
    objective: Objective
    train: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    source: dict


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Make the soups and measure them; write `result.json`, the weights and the recipes beside it.

    A run that was stopped keeps its pools, every finished soup, and every block of an unfinished one; a finished run returns
    its result as it is.

    Raises:
      ConfigError, DataNotFoundError, CheckpointError: before any training, and before the directory is claimed.
    """
    begin, workdir = time.perf_counter(), pathlib.Path(workdir)
    methods = {name: method(name, lookup(config.methods, name, "compare"), config.learn) for name in config.compare}
    subject = subject_of(config)
    check(config, len(subject.train["y"]))
    given = given_pool(config, subject) if config.pool.directories else None
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((workdir / training.workdir.RESULT).read_text())
    prepare = functools.partial(prepared, config, subject, workdir, given)
    cells = fill(workdir, config.seeds, methods, prepare, functools.partial(cell, config.seeds[0]))
    pools = [json.loads((_place(workdir, seed) / "members.json").read_text()) for seed in config.seeds]
    found = result(config, [subject.source], begin, soups=results.record(config, methods, cells, pools))
    results.gather_evidence(workdir, config.seeds[0], list(methods))
    training.workdir.write_result(workdir, found | training.workdir.environment())
    return found


def subject_of(config: ConfigDict) -> Subject:
    """Load the data and build the network."""
    found = data.load(config.data.name, path=config.data.path)
    largest = 255.0 if np.max(found.train["x"]) > 16 else 16.0
    columns = lambda side: {"x": np.asarray(side["x"], np.float32) / largest, "y": np.asarray(side["y"])}
    train = columns(found.train)
    network = build_classifier(config, train, len(found.classes))
    objective = cross_entropy(lambda params, batch, key: network.apply(params, {}, batch["x"])[0])
    return Subject(network, objective, train, columns(found.test), found.source._asdict())


def given_pool(config: ConfigDict, subject: Subject) -> Pool:
    """The models of `pool.directories`, which must be those of `config.model`.

    Raises:
      ConfigError, CheckpointError: one is not, or cannot be read.
    """
    pool = OrbaxPool(config.pool.directories)
    struct, _ = jax.eval_shape(subject.network.init, jax.random.key(0), subject.train["x"][:1])
    shapes = lambda tree: {name: tuple(leaf.shape) for name, leaf in named(tree).items()}
    if (found := shapes(pool.struct)) != (expected := shapes(struct)):
        differing = sorted(f"{name} {shape}" for name, shape in found.items() ^ expected.items())
        raise ConfigError(
            f"pool.directories[0] holds another network than config.model: leaves that differ are {shown(differing, 4)}."
        )
    return pool


def split(config: ConfigDict, train: Mapping[str, np.ndarray], seed: int) -> list[dict[str, np.ndarray]]:
    """Rows for the start, to fine-tune on, and held out: apart from each other, drawn by seed."""
    order, rows = np.random.default_rng(seed).permutation(len(train["y"])), config.data
    parts = np.split(order, np.cumsum([rows.pretrain_rows, rows.tune_rows, rows.held_rows]))
    return [{name: column[part] for name, column in train.items()} for part in parts[:3]]


def prepared(
    config: ConfigDict, subject: Subject, workdir: pathlib.Path, given: Pool | None, seed: int, progress: Progress
) -> Task:
    """The pool of a seed, trained unless it was before, its models measured, and the rows that methods may look at."""
    place, network = _place(workdir, seed), subject.network
    first, tune, held = split(config, subject.train, seed)
    key = jax.random.key(seed)
    recipes = finetuning.draw_recipes(config.pool, seed)
    if given is not None:
        pool, recipes = given, [{} for _ in given.names]
    else:
        if not (place / "members.json").exists():
            start = pretrained(network, first, config.pretrain, key, progress)
            stacked = finetuning.fine_tune(
                network, start, tune, config.pool, recipes, jax.random.fold_in(key, 1), progress
            )
            finetuning.write_pool(place, stacked)
        pool = OrbaxPool([place / f"model{k:02d}" for k in range(config.pool.count)])
    size = config.learn.batch_size
    batches = [
        {name: jax.device_put(column[i : i + size]) for name, column in held.items()}
        for i in range(0, len(held["y"]) - size + 1, size)
    ]
    judge = functools.partial(judge_all, network, {"held": held, "test": subject.test})
    score = lambda params: judged(network, params, held)[0]
    if not (place / "members.json").exists():
        members = [
            {"name": name} | recipe | judge(load_checked(pool, k))
            for k, (name, recipe) in enumerate(zip(pool.names, recipes))
        ]
        middle = score(averages.uniform(pool).params)
        one = check_basin(middle, [each["held/accuracy"] for each in members], " %")
        told = {"members": members, "uniform": middle, "one_basin": one}
        training.workdir.write_json(place / "members.json", told)
    members = json.loads((place / "members.json").read_text())["members"]
    scores = [each["held/accuracy"] for each in members]
    return Task(Held(pool, subject.objective, batches, score, scores, jax.random.fold_in(key, 2)), judge)


def cell(first: int, task: Task, row: Method, seed: int, place: pathlib.Path, progress: Progress) -> dict[str, Any]:
    """One soup, measured; its recipe beside it."""
    bar = progress.add_task(row.label, total=None)
    begin = time.perf_counter()
    if row.kind == "mehl":
        with training.Checkpoints(place / "checkpoints", keep=1) as checkpoints:
            soup = row.make(task.held, checkpoints)
    else:
        soup = row.make(task.held, None)
    seconds = time.perf_counter() - begin
    values = task.judge(soup.params)
    place.mkdir(parents=True, exist_ok=True)
    if seed == first:
        leaves = [(name, of) for name, of in zip(named(task.held.pool.struct), soup.groups.of) if of != KEPT]
        names, numbers = zip(*leaves)
        np.savez_compressed(place / "evidence.npz", weights=soup.weights[:, list(numbers)], leaves=names)
    save_recipe(place / "recipe.json", recipe_of(task.held.pool, soup, settings={"method": row.label}, metrics=values))
    progress.remove_task(bar)
    return {
        "values": values | {"lowest": float(soup.weights.min()), "highest": float(soup.weights.max())},
        "used": int(np.any(np.abs(soup.weights) > 0, axis=1).sum()),
        "seconds": seconds,
        "losses": [loss for record in soup.history for loss in record.get("losses", [])],
        "live_bytes": max((record.get("live_bytes", 0) for record in soup.history), default=0),
    }


def judge_all(
    network: models.Classifier, rows: Mapping[str, Mapping[str, np.ndarray]], params: PyTree
) -> dict[str, float]:
    """Accuracy in per cent and NLL in nats on every set of rows."""
    found = {name: judged(network, params, columns) for name, columns in rows.items()}
    return {f"{name}/{what}": value for name, pair in found.items() for what, value in zip(("accuracy", "nll"), pair)}


def check(config: ConfigDict, total: int) -> None:
    """Refuse what cannot be carried out.

    Raises:
      ConfigError: naming the field.
    """
    if not config.compare or not config.seeds:
        raise ConfigError("compare and seeds must name at least one each.")
    rows, pool = config.data, config.pool
    asked = rows.pretrain_rows + rows.tune_rows + rows.held_rows
    if min(rows.pretrain_rows, rows.tune_rows, rows.held_rows) < 1 or asked > total:
        raise ConfigError(
            f"data.pretrain_rows + tune_rows + held_rows is {rows.pretrain_rows} + {rows.tune_rows} + {rows.held_rows}; "
            f"expected numbers above 0 and together at most the {total} rows of {rows.name}."
        )
    numbers = {"learn.batch_size": config.learn.batch_size}
    if not pool.directories:
        numbers |= {
            f"{part}.{name}": config[part][name] for part in ("pretrain", "pool") for name in ("epochs", "batch_size")
        }
        numbers["pretrain.learning_rate"] = config.pretrain.learning_rate
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}; expected a number above 0.")
    if not config.learn.batch_size <= rows.held_rows:
        raise ConfigError(f"learn.batch_size is {config.learn.batch_size}; there are {rows.held_rows} held-out rows.")
    if pool.directories:
        if len(pool.directories) < 2:
            raise ConfigError(f"pool.directories has {len(pool.directories)} model; a soup needs at least 2.")
        return
    if pool.count < 2:
        raise ConfigError(f"pool.count is {pool.count}; a soup needs at least 2.")
    if not 0 < pool.rows <= rows.tune_rows:
        raise ConfigError(f"pool.rows is {pool.rows}; there are {rows.tune_rows} rows to fine-tune on.")
    for name in ("learning_rate", "weight_decay"):
        low, high = pool[name]
        if not 0 < low <= high:
            raise ConfigError(f"pool.{name} is ({low}, {high}); expected 0 < low ≤ high.")


def _place(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    return workdir / "pools" / f"seed{seed}"
