"""One unlearning run: pretrain, request, adapt, evaluate. The only file of this room that reads a config."""

import json
import pathlib
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.progress import Progress, TimeElapsedColumn

from clujax import configuration, data, models, training
from clujax.errors import ConfigError
from clujax.unlearning import evidence, methods, results, schedules
from clujax.unlearning.decomposition import parts_probe
from clujax.unlearning.losses import adaptive_ascent, random_relabel
from clujax.unlearning.method import Method, Outcome, execute, unlearn
from clujax.unlearning.methods.finetune import train_on
from clujax.unlearning.metrics import evaluate, gaps, predictions
from clujax.unlearning.request import Request

METHODS = {
    "retrain": methods.retrain,
    "finetune": methods.finetune,
    "gradient_ascent": methods.gradient_ascent,
    "random_label": methods.random_label,
    "salun": methods.salun,
    "scrub": methods.scrub,
    "bad_teacher": methods.bad_teacher,
    "muso": methods.muso,
    "sfron": methods.sfron,
    "euclidean": methods.euclidean,
    "fixed_fisher": methods.fixed_fisher,
    "remain_newton": methods.remain_newton,
}
MODELS = {"mlp": models.mlp, "cnn": models.cnn, "resnet": models.resnet, "vit": models.vit}
SCHEDULES = {name: getattr(schedules, name) for name in ("constant", "cosine", "linear", "quadratic")}
OBJECTIVES = {"adaptive_ascent": adaptive_ascent, "random_relabel": random_relabel}
AUGMENTS = {"none": None, "crop_flip": data.crop_flip}


class Run(NamedTuple):
    """What all stages of one run share."""

    config: ConfigDict
    workdir: pathlib.Path
    classifier: models.Classifier
    augment: Callable | None
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    classes: tuple[str, ...]
    mesh: Any
    progress: Any


class Cell(NamedTuple):
    """One method on one request and seed."""

    values: dict[str, float]
    gap: dict[str, float] | None
    outcome: Outcome


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Run every method of the config on every request and seed; write `result.json` and the evidence beside it.

    A run that was stopped takes up each network at its last checkpoint; a finished one returns its result as it is.

    Raises:
      ConfigError, DataNotFoundError, RequestError: before any training, and before the directory is claimed.
    """
    begin = time.perf_counter()
    requests = {name: lookup(config.requests, name, "carry_out") for name in config.carry_out}
    arms = {name: methods_for(config, request) for name, request in requests.items()}
    dataset = data.load(config.data.name, path=config.data.path, fallback=config.data.fallback)
    train, test = select_rows(dataset, config.data)
    splits = {
        (name, seed): data.make_split(train["y"], seed=seed, **split_settings(request))
        for name, request in requests.items()
        for seed in config.seeds
    }
    mesh = training.make_mesh(config.mesh) if jax.device_count() > 1 else None
    classifier = build_classifier(config.model, train, len(dataset.classes))
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((pathlib.Path(workdir) / training.workdir.RESULT).read_text())

    cells: dict[str, dict[str, list[Cell]]] = {name: {} for name in requests}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        total = len(config.seeds) * (1 + sum(map(len, arms.values())))
        progress.add_task("networks", total=total)
        shared = Run(
            config,
            pathlib.Path(workdir),
            classifier,
            AUGMENTS[config.data.augment],
            train,
            test,
            dataset.classes,
            mesh,
            progress,
        )
        for seed in config.seeds:
            original = pretrain(shared, seed)
            for i, name in enumerate(requests):
                found = carry_out(shared, name, i, seed, splits[name, seed], original, arms[name])
                for method, cell in found.items():
                    cells[name].setdefault(method, []).append(cell)
    result = {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": dataset.source._asdict(),
        "seeds": list(config.seeds),
        "requests": [
            results.request_record(name, request, splits[name, config.seeds[0]], len(test["y"]), cells[name])
            for name, request in requests.items()
        ],
        "wall_seconds": time.perf_counter() - begin,
    }
    training.workdir.write_result(workdir, result | results.environment())
    return result


def pretrain(run: Run, seed: int) -> Outcome:
    """Train the original network on all rows."""
    key = jax.random.key(seed)
    init_key, stream_key, run_key = jax.random.split(key, 3)
    everything = request_for(run, None, None, run.train, run.train)
    params, stats = run.classifier.init(init_key, run.train["x"][:1])
    plan = train_on(everything, run.train, params, stats, stream_key, **run.config.pretrain.to_dict())
    return stage(run, f"seed{seed}/original", execute, plan, key=run_key)


def carry_out(run, name, number, seed, split, original, arms) -> dict[str, Cell]:
    """One forget request by every method, each evaluated beside the retrained network."""
    forget, remain = take_rows(run.train, split.forget), take_rows(run.train, split.remain)
    request = request_for(run, original.params, original.stats, forget, remain)
    whole_classes = np.unique(forget["y"]) if split.scenario == "class" else np.array([], int)
    gone = np.isin(run.test["y"], whole_classes)
    rows = {
        "forget": forget,
        "remain": remain,
        "unseen": take_rows(run.test, ~gone),
        "unseen_forget": take_rows(run.test, gone),
    }
    outcomes = {"original": original}
    for method_name, method in arms.items():
        options = {}
        if method_name == run.config.evidence.method and seed == run.config.seeds[0]:
            options = {"probe": parts_probe(request, **run.config.evidence.probe.to_dict())}
        outcomes[method_name] = stage(
            run,
            f"seed{seed}/{name}/{method_name}",
            unlearn,
            method,
            request,
            key=jax.random.fold_in(
                jax.random.fold_in(jax.random.key(seed), 1 + number), zlib.crc32(method_name.encode())
            ),
            **options,
        )
    caches = {
        key: predictions(run.classifier, outcome.params, outcome.stats, rows) for key, outcome in outcomes.items()
    }
    reference = evaluate(caches["retrain"])
    found = {}
    for key, outcome in outcomes.items():
        values = evaluate(caches[key], caches["retrain"] if key != "retrain" else None)
        found[key] = Cell(values, None if key == "retrain" else gaps(values, reference), outcome)
    if seed == run.config.seeds[0]:
        shown = run.config.evidence.method
        evidence.write(
            run.workdir / f"evidence_{number}.npz",
            {key: caches[key] for key in ("original", shown, "retrain")},
            rows,
            run.classes,
            outcomes[shown],
            seed=seed,
        )
    return found


def stage(run: Run, name: str, work: Callable, *args: Any, **options: Any) -> Outcome:
    """Run one network's training under its own checkpoints and metrics in `workdir/stages/name`."""
    directory = run.workdir / "stages" / name
    with training.Checkpoints(directory / "checkpoints") as checkpoints, training.Writer(directory) as writer:
        outcome = work(
            *args,
            checkpoints=checkpoints,
            checkpoint_every=run.config.checkpoint_every,
            writer=writer,
            log_every=run.config.log_every,
            progress=run.progress,
            description=name,
            **options,
        )
    overall, *own = run.progress.task_ids
    run.progress.advance(overall)
    for task in own:
        run.progress.remove_task(task)
    return outcome


def take_rows(columns: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The chosen rows of every column."""
    return {name: column[rows] for name, column in columns.items()}


def request_for(run, params, stats, forget, remain) -> Request:
    """A request on the run's network, rows and mesh."""
    return Request(
        classifier=run.classifier,
        params=params,
        stats=stats,
        forget=forget,
        remain=remain,
        num_classes=len(run.classes),
        augment=run.augment,
        mesh=run.mesh,
    )


# Names in a config become functions here, once.


def methods_for(config: ConfigDict, request: ConfigDict) -> dict[str, Method]:
    """The methods to compare on one request; `request.override.<name>` replaces settings of `methods.<name>`."""
    override = request.get("override", {})
    found = {}
    for name in config.compare:
        values = lookup(config.methods, name, "compare").to_dict() | dict(override.get(name, {}))
        kind = lookup(METHODS, values.pop("method", name), f"methods.{name}.method")
        if "schedule" in values:
            values["schedule"] = lookup(SCHEDULES, values["schedule"], f"methods.{name}.schedule")
        try:
            if "objective" in values:
                objective = dict(values["objective"])
                kind_of = lookup(OBJECTIVES, objective.pop("name"), f"methods.{name}.objective.name")
                values["objective"] = kind_of(**objective)
            found[name] = kind(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"methods.{name}: {error}") from error
    if "retrain" not in found:
        raise ConfigError("compare lacks 'retrain': every number is read against the retrained network. Add it.")
    if config.evidence.method not in found:
        raise ConfigError(
            f"evidence.method is {config.evidence.method!r}; expected one of compare: {', '.join(found)}."
        )
    return found


def lookup(table: Mapping[str, Any] | ConfigDict, name: str, where: str) -> Any:
    """The function a config names."""
    if name not in table:
        raise ConfigError(f"{where} is {name!r}; expected one of {', '.join(sorted(table))}.")
    return table[name]


def split_settings(request: ConfigDict) -> dict:
    """The part of a request's config that says which rows are forgotten."""
    return {key: value for key, value in request.items() if key not in ("override", "label")}


def select_rows(dataset: data.Dataset, settings: ConfigDict):
    """Training and test rows: the first `train_rows` and `test_rows`, or all."""
    sides = []
    for name in ("train", "test"):
        columns = getattr(dataset, name)
        count = settings[f"{name}_rows"] or len(columns["y"])
        if not 0 < count <= len(columns["y"]):
            raise ConfigError(f"data.{name}_rows is {count}; {settings.name} has {len(columns['y'])} {name} rows.")
        sides.append(take_rows(columns, slice(count)))
    return sides


def build_classifier(settings: ConfigDict, train: Mapping[str, Any], num_classes: int) -> models.Classifier:
    """The network behind a standardisation by the training rows' mean and spread per channel."""
    options = {key: value for key, value in settings.items() if key != "name"}
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    network = lookup(MODELS, settings.name, "model.name")(num_classes=num_classes, **options)
    x = np.asarray(train["x"])
    x = x if x.ndim == 4 else x[..., None]
    mean, std = x.mean((0, 1, 2), dtype=np.float64), x.std((0, 1, 2), dtype=np.float64)
    return models.with_inputs(network, data.standardize(mean, std))
