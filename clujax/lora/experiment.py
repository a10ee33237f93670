"""One run: pretrain or load, adapt by every method on every seed, measure. Only `settings` and `tasks` read a config too."""

import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress, TimeElapsedColumn

from clujax import configuration, data, geometry, training
from clujax.adaptation.settings import lookup
from clujax.errors import ConfigError
from clujax.lora import adapters as lora
from clujax.lora import results
from clujax.lora.rules import build_spec
from clujax.lora.settings import TASKS, Variant, optimizer, variant
from clujax.lora.steps import init_state
from clujax.lora.tasks import Columns, Subject, Task, loss_of


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Adapt and measure; write `result.json` and the evidence beside it.

    A run that was stopped keeps every finished cell, and goes on within a cell at its last checkpoint; a finished run returns
    its result as it is.

    Raises:
      ConfigError, DataNotFoundError: before any training, and before the directory is claimed.
    """
    begin, workdir = time.perf_counter(), pathlib.Path(workdir)
    variants = {name: variant(name, lookup(config.methods, name, "compare"), config.adapt) for name in config.compare}
    _check(config)
    subject = lookup(TASKS, config.task, "task")(config)
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((workdir / training.workdir.RESULT).read_text())
    cells: dict[str, list[dict]] = {name: [] for name in variants}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        bar = progress.add_task("adapt", total=len(config.seeds) * len(variants))
        for seed in config.seeds:
            places = {name: workdir / "stages" / f"seed{seed}" / name for name in variants}
            missing = [name for name, place in places.items() if not (place / "cell.json").exists()]
            task = subject.of(seed) if missing else None
            for name, place in places.items():
                if name in missing:
                    measured = cell(config, task, variants[name], seed, place, progress)
                    training.workdir.write_json(place / "cell.json", measured)
                cells[name].append(json.loads((place / "cell.json").read_text()))
                progress.advance(bar)
    labels = {name: each.label for name, each in variants.items()}
    result = {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": subject.sources[0],
        "sources": list(subject.sources),
        "seeds": list(config.seeds),
        "requests": [],
        "lora": results.record(config, subject, labels, cells),
        "wall_seconds": time.perf_counter() - begin,
    }
    results.gather_evidence(workdir, config, list(variants))
    training.workdir.write_result(workdir, result | training.workdir.environment())
    return result


def cell(
    config: ConfigDict, task: Task, row: Variant, seed: int, place: pathlib.Path, progress: Progress
) -> dict[str, Any]:
    """Train one method on one seed and measure the merged network."""
    adapt = config.adapt
    spec = build_spec(task.base, row.rules, allow_overlap=True)
    steps = max(1, round(adapt.epochs * len(task.train["y"]) / adapt.batch_size))
    step = row.step(loss_of(task.classifier), spec, optimizer(adapt, steps), steps)
    key = jax.random.fold_in(jax.random.key(seed), 100)
    adapters, base = lora.init(key, task.base, spec)
    state = init_state(adapters, step.optimizer, jax.random.fold_in(key, 1))
    batch_at = data.resident(task.train, adapt.batch_size, jax.random.fold_in(key, 2))
    memory = step.jitted.lower(state, base, batch_at(0)).compile().memory_analysis()
    with training.Checkpoints(place / "checkpoints", keep=1) as checkpoints:
        state, history = training.fit(
            lambda state, batch: step(state, base, batch), state, batch_at, steps, checkpoints=checkpoints,
            checkpoint_every=adapt.checkpoint_every, log_every=max(1, steps // 50), progress=progress,
            description=row.label,
        )  # fmt: skip
    params = lora.merge(base, state.adapters, spec)
    values, curves = measure(config, task, params, spec.layouts, key)
    place.mkdir(parents=True, exist_ok=True)
    if seed == config.seeds[0]:
        np.savez_compressed(place / "evidence.npz", **curves)
    return {
        "values": values,
        "history": [{"step": each["step"], "loss": each["loss"]} for each in history.records],
        "steps": steps,
        "step_seconds": history.run_seconds / steps,
        "temp_bytes": memory.temp_size_in_bytes,
        "trained": int(sum(leaf.size for leaf in jax.tree.leaves(state.adapters))),
    }


def measure(
    config: ConfigDict, task: Task, params: PyTree, layouts: dict, key: Array
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Losses and accuracies of all rows, sharpness on training rows, and loss slices along random directions."""
    values = {}
    for name, columns in {"train": task.train, **task.tests}.items():
        nll, right = evaluate(task, params, columns)
        values |= {f"{name}/nll": nll, f"{name}/accuracy": 100 * right}
    few = {name: jnp.asarray(column[: config.measure.rows]) for name, column in task.train.items()}
    clean = jax.jit(lambda p: loss_of_rows(task, p, few))
    scale = geometry.filter_wise(layouts)
    for tau in config.measure.taus:
        values[f"sharpness {tau:g}"] = float(
            jax.jit(lambda p, t: geometry.sharpness(lambda q: loss_of_rows(task, q, few), p, key, t, scale,
                                                    num_samples=config.measure.draws))(params, tau)
        )  # fmt: skip
    offsets = jnp.linspace(-1, 1, config.measure.points) * config.measure.span
    directions = tuple(geometry.random_direction(params, jax.random.key(i), layouts) for i in (1, 2))
    line = np.array([clean(_moved(params, directions[0], t)) for t in offsets])
    plane = np.array([[clean(_moved(_moved(params, directions[0], s), directions[1], t)) for t in offsets]
                      for s in offsets]) if config.measure.plane else np.zeros((0, 0))  # fmt: skip
    return values, {"offsets": np.asarray(offsets), "line": line, "plane": plane}


def loss_of_rows(task: Task, params: PyTree, columns: Columns) -> Array:
    """Mean cross-entropy in eval mode."""
    logits, _ = task.classifier.apply(params, {}, columns["x"])
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, columns["y"]).mean()


def evaluate(task: Task, params: PyTree, columns: Columns, batch_size: int = 250) -> tuple[float, float]:
    """Mean negative log-likelihood in nats and share of rows that are right."""
    step = _evaluated(task.classifier.apply)
    total = np.zeros(2)
    for batch in data.padded(columns, min(batch_size, len(columns["y"]))):
        total += np.array(step(params, batch))
    return tuple(float(each) for each in total / len(columns["y"]))


_PROGRAMS: dict[Callable, Callable] = {}


def _evaluated(apply: Callable) -> Callable:
    """One compiled evaluation for each network."""
    if apply not in _PROGRAMS:

        def step(params: PyTree, batch: Columns) -> tuple[Array, Array]:
            logits, _ = apply(params, {}, batch["x"])
            nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            right = (logits.argmax(-1) == batch["y"]).astype(jnp.float32)
            return jnp.sum(nll * batch["weight"]), jnp.sum(right * batch["weight"])

        _PROGRAMS[apply] = jax.jit(step)
    return _PROGRAMS[apply]


def _moved(params: PyTree, direction: PyTree, t: Array) -> PyTree:
    return jax.tree.map(lambda p, d: p + t * d, params, direction)


def _check(config: ConfigDict) -> None:
    if not config.compare or not config.seeds:
        raise ConfigError("compare and seeds must name at least one each.")
    for name in ("epochs", "batch_size", "learning_rate", "rank"):
        if not config.adapt[name] > 0:
            raise ConfigError(f"adapt.{name} is {config.adapt[name]}; expected a number above 0.")


__all__ = ["Subject", "cell", "evaluate", "measure", "run"]
