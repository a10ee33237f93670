"""One run over streams of requests: base network, every method over every stream and seed, evaluation beside the oracle."""

import json
import pathlib
import shlex
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.progress import Progress, TimeElapsedColumn

from clujax import configuration, training
from clujax.continual import results
from clujax.continual.base import base_network, first_state
from clujax.continual.deployment import Deployment
from clujax.continual.evaluation import evaluated, load_outputs, outputs_of, save_outputs
from clujax.continual.ledger import REFUSED
from clujax.continual.method import Learner, Method, Rules, Scene, predictor
from clujax.continual.metrics import Groups, groups
from clujax.continual.request import Change, Request, standing_after
from clujax.continual.settings import Stage, changes_of, methods_for, stage_for, streams_for


class Run(NamedTuple):
    """What all parts of one run share."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: Stage
    progress: Any


class Arm(NamedTuple):
    """A method made for the scene, with its compiled prediction."""

    settings: Mapping[str, Any]
    rules: Rules
    logits: Callable


class Stream(NamedTuple):
    """One stream of one seed: its requests, what each changes, and the network that learned the first of them."""

    name: str
    seed: int
    requests: list[Request]
    changes: list[Change]
    base: tuple[Any, Any]


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Run every method of the config over every stream and seed; write `result.json` and the evidence beside it.

    Each method over each stream is a deployment in a directory of its own, with its ledger: a run that was stopped keeps
    every request that was carried out. A finished run returns its result as it is.

    Raises:
      ConfigError, DataNotFoundError, RequestError: before any training, and before the directory is claimed.
    """
    started = time.perf_counter()
    built: dict[str, Method] = {}
    methods = {name: methods_for(config, config.streams[name], built) for name in config.carry_out}
    stage = stage_for(config)
    labels = np.asarray(stage.scene.columns["y"])
    requests = {seed: streams_for(config, labels, seed) for seed in config.seeds}
    changes = {
        seed: {
            name: changes_of(each, len(labels), task_aware=config.streams[name].task_aware)
            for name, each in requests[seed].items()
        }
        for seed in config.seeds
    }
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((pathlib.Path(workdir) / training.workdir.RESULT).read_text())

    found: dict[str, dict[str, list[results.Cell]]] = {name: {} for name in config.carry_out}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        total = sum(len(each[name]) * len(methods[name]) for each in requests.values() for name in each)
        progress.add_task("requests", total=total)
        shared = Run(config, pathlib.Path(workdir), stage, progress)
        # Programs are compiled once for all seeds, streams and names of a method.
        made = {id(method): arm(stage.scene, method) for method in built.values()}
        for seed in config.seeds:
            bases: dict[bytes, Any] = {}
            for name, stream_requests in requests[seed].items():
                first = changes[seed][name][0].learn
                if first.tobytes() not in bases:
                    name_of = f"seed{seed}/base{len(bases)}"
                    bases[first.tobytes()] = base_network(
                        config, stage.scene, first, seed, shared.workdir / "stages" / name_of, description=name_of
                    )
                stream = Stream(name, seed, stream_requests, changes[seed][name], bases[first.tobytes()])
                # The oracle first: the others are read beside its outputs.
                for method_name in ("oracle", *(each for each in methods[name] if each != "oracle")):
                    cell = carry_stream(shared, stream, method_name, made[id(methods[name][method_name])])
                    found[name].setdefault(method_name, []).append(cell)
    result = {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": stage.source._asdict(),
        "seeds": list(config.seeds),
        "requests": [
            results.stream_record(
                name,
                config.streams[name],
                requests[config.seeds[0]][name],
                [kept_classes(changes[seed][name], labels) for seed in config.seeds],
                cells,
                labels=dict(config.get("labels", {})),
                focus=config.focus,
                sizes=sizes(changes[config.seeds[0]][name], stage.test),
            )
            for name, cells in found.items()
        ],
        "wall_seconds": time.perf_counter() - started,
    }
    for i, cells in enumerate(found.values()):
        results.write_evidence(shared.workdir / f"evidence_{i}.npz", cells, result["requests"][i])
    training.workdir.write_result(workdir, result | training.workdir.environment())
    return result


def kept_classes(changes: Sequence[Change], labels: np.ndarray) -> list[list[int]]:
    """Classes that have a kept row after each request."""
    return [np.unique(labels[np.union1d(change.remain, change.learn)]).tolist() for change in changes]


def sizes(changes: Sequence[Change], test: Mapping[str, Any]) -> dict[str, int]:
    """Rows that a stream touches, for the heading of its table."""
    count = lambda name: sum(len(getattr(change, name)) for change in changes)
    return {"num_learn": count("learn"), "num_forget": count("forget"), "num_test": len(test["y"])}


def arm(scene: Scene, method: Method) -> Arm:
    """Build a method's rules and its compiled prediction."""
    rules = method.build(scene)
    return Arm(method.settings, rules, jax.jit(predictor(scene, rules)))


def carry_stream(run: Run, stream: Stream, name: str, arm: Arm) -> results.Cell:
    """One method over one stream, in its own directory; what is finished there already is read from its ledger."""
    config, scene = run.config, run.stage.scene
    directory = run.workdir / "stages" / f"seed{stream.seed}" / stream.name / name
    key = jax.random.fold_in(jax.random.key(stream.seed), zlib.crc32(f"{stream.name}/{name}".encode()))
    first_key, stream_key = jax.random.split(key)
    opening = stream.changes[0]
    first = first_state(config, scene, arm.rules, opening.learn, stream.base, first_key, opening.task)
    task = run.progress.add_task(f"seed {stream.seed}, {stream.name}, {name}", total=len(stream.requests))
    identity = {"run": configuration.digest(config), "stream": stream.name, "seed": stream.seed, "method": name}
    log, rows = directory / "warnings.json", []
    heard = json.loads(log.read_text()) if log.exists() else []
    with Deployment(directory, scene, arm.rules, lambda: first, key=stream_key, config=identity) as deployment:
        status = np.zeros(len(scene.columns["y"]), np.int8)
        for i, (request, change) in enumerate(zip(stream.requests, stream.changes, strict=True)):
            group = groups(status, change, scene.columns["y"], run.stage.test["y"])
            measure = lambda learner, _, i=i, group=group: measured(run, stream, name, arm, learner, i, group)
            if i == 0:
                rows.append(measure(first.learner, None) | {"seconds": 0.0})
            else:
                with warnings.catch_warnings(record=True) as caught:
                    entry = deployment.apply(request._replace(name=f"{i + 1} {request.name}"), measure)
                heard += [f"request {i + 1} ({request.name}): {each.message}" for each in caught if _ours(each)]
                if caught:
                    training.workdir.write_json(log, heard)
                if entry.status == REFUSED:
                    heard.append(
                        f"Collapsed: request {i + 1} ({request.name}) could not be carried out: {entry.reason}"
                    )
                    run.progress.advance(run.progress.task_ids[0], len(stream.requests) - i)
                    break
                rows.append(dict(entry.metrics) | {"seconds": entry.times["adapt_seconds"]})
            status = standing_after(status, change)
            run.progress.advance(task)
            run.progress.advance(run.progress.task_ids[0])
    run.progress.remove_task(task)
    return results.Cell(tuple(rows), arm.settings, tuple(heard))


def measured(
    run: Run, stream: Stream, name: str, arm: Arm, learner: Learner, i: int, group: Groups
) -> dict[str, float]:
    """Metrics of one network after request i, beside the oracle's outputs, which the oracle's own turn leaves on disk."""
    place = run.workdir / "stages" / f"seed{stream.seed}" / stream.name / "outputs" / f"{i}.npz"
    found = outputs_of(arm.logits, learner, run.stage.scene.columns["x"], run.stage.test["x"])
    if name == "oracle":
        save_outputs(place, found)
    reference = found if name == "oracle" else load_outputs(place)
    labels = run.stage.scene.columns["y"], run.stage.test["y"]
    return evaluated(found, group, *labels, reference, tasks=run.config.tasks)


def _ours(caught: Any) -> bool:
    return issubclass(caught.category, UserWarning)
