"""One run: pretrain or load, adapt by every method on every seed, measure. Only `settings` and `tasks` read a config too."""

import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import data, geometry, training
from clujax.adaptation.cells import fill, result
from clujax.adaptation.predictions import judged
from clujax.adaptation.pretraining import loss_of
from clujax.adaptation.settings import lookup
from clujax.errors import ConfigError
from clujax.lora import adapters as lora
from clujax.lora import results
from clujax.lora.rules import build_spec
from clujax.lora.settings import TASKS, Variant, optimizer, variant
from clujax.lora.steps import init_state
from clujax.lora.tasks import Task


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
    measured = functools.partial(cell, config)
    cells = fill(workdir, config.seeds, variants, subject.of, measured)
    labels = {name: each.label for name, each in variants.items()}
    record = results.record(config, subject, labels, cells)
    found = result(config, subject.sources, begin, lora=record)
    results.gather_evidence(workdir, config, list(variants))
    training.workdir.write_result(workdir, found | training.workdir.environment())
    return found


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
    compiled = step.jitted.lower(state, base, batch_at(0)).compile()
    with training.Checkpoints(place / "checkpoints", keep=1) as checkpoints:
        state, history = training.fit(
            lambda state, batch: compiled(state, base, batch), state, batch_at, steps, checkpoints=checkpoints,
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
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "trained": int(sum(leaf.size for leaf in jax.tree.leaves(state.adapters))),
    }


def measure(
    config: ConfigDict, task: Task, params: PyTree, layouts: dict, key: Array
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Losses and accuracies of all rows, sharpness on training rows, and loss slices along random directions."""
    values = {}
    for name, columns in {"train": task.train, **task.tests}.items():
        right, nll = judged(task.classifier, params, columns, batch_size=250)
        values |= {f"{name}/nll": nll, f"{name}/accuracy": right}
    few = {name: jnp.asarray(column[: config.measure.rows]) for name, column in task.train.items()}

    @jax.jit
    def loss(params: PyTree) -> Array:
        logits, _ = task.classifier.apply(params, {}, few["x"])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, few["y"]).mean()

    scale, draws = geometry.filter_wise(layouts), config.measure.draws
    in_turn = geometry.one_by_one
    for tau in config.measure.taus:
        rise = geometry.sharpness(loss, params, key, tau, scale, num_samples=draws, in_turn=in_turn)
        values[f"sharpness {tau:g}"] = float(rise)
    offsets = jnp.linspace(-1, 1, config.measure.points) * config.measure.span
    first, second = (geometry.random_direction(params, jax.random.key(i), layouts) for i in (1, 2))
    curves = {"offsets": np.asarray(offsets)}
    curves["line"] = np.asarray(geometry.slice_1d(loss, params, first, offsets, in_turn=in_turn))
    if config.measure.plane:
        curves["plane"] = np.asarray(geometry.slice_2d(loss, params, (first, second), offsets, in_turn=in_turn))
    return values, curves


def _check(config: ConfigDict) -> None:
    if not config.compare or not config.seeds:
        raise ConfigError("compare and seeds must name at least one each.")
    for name in ("epochs", "batch_size", "learning_rate", "rank"):
        if not config.adapt[name] > 0:
            raise ConfigError(f"adapt.{name} is {config.adapt[name]}; expected a number above 0.")
