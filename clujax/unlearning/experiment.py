"""One unlearning run: pretrain, request, adapt, evaluate. With `settings`, the only file of this room that reads a config."""

import json
import math
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

from clujax import configuration, data, training
from clujax.adaptation.method import Method, Outcome, execute, unlearn
from clujax.adaptation.plans import train_on
from clujax.adaptation.predictions import predictions
from clujax.adaptation.request import Request, check_request
from clujax.adaptation.settings import (
    AUGMENTS,
    build_classifier,
    build_mesh,
    build_rules,
    checkpoint_options,
    lookup,
    select_rows,
)
from clujax.data import take_rows
from clujax.unlearning import cells, evidence, noise, results
from clujax.unlearning.cases import Case, case_for
from clujax.unlearning.cells import Cell
from clujax.unlearning.decomposition import parts_probe
from clujax.unlearning.distances import parameter_distance
from clujax.unlearning.ensembles import ensemble_logits, member, train_ensemble
from clujax.unlearning.metrics import check_unseen, evaluate, gaps, summary
from clujax.unlearning.outline import check_layout
from clujax.unlearning.relearning import relearn_time
from clujax.unlearning.settings import methods_for
from clujax.unlearning.sweep import sweep


class Run(NamedTuple):
    """What all stages of one run share."""

    config: ConfigDict
    workdir: pathlib.Path
    augment: Callable | None
    classes: tuple[str, ...]
    mesh: Any
    rules: Any
    progress: Any


class Trained(NamedTuple):
    """The original network of a seed, with the parameters that its training began from."""

    classifier: Any
    initial: Any
    outcome: Outcome


def run(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Run every method of the config on every request and seed; write `result.json` and the evidence beside it.

    A run that was stopped keeps every finished cell and takes up the network at hand at its last checkpoint; a finished run
    returns its result as it is.

    Raises:
      ConfigError, DataNotFoundError, RequestError: before any training, and before the directory is claimed.
    """
    begin = time.perf_counter()
    requests = {name: lookup(config.requests, name, "carry_out") for name in config.carry_out}
    arms = {name: methods_for(config, request) for name, request in requests.items()}
    dataset = data.load(config.data.name, path=config.data.path, fallback=config.data.fallback)
    train, test, validation = select_rows(dataset, config.data)
    check_unseen({"forget": train, "unseen": test})
    cases = {
        (name, seed): case_for(request, train, test, len(dataset.classes), seed, validation)
        for name, request in requests.items()
        for seed in config.seeds
    }
    mesh, rules = build_mesh(config), build_rules(config)
    check_layout(config, mesh, train, len(dataset.classes))
    checkpoint_options(config)
    for name, methods in arms.items():
        check_arms(config, cases[name, config.seeds[0]], methods)
    if training.workdir.claim(workdir, config.to_dict()) == "complete":
        return json.loads((pathlib.Path(workdir) / training.workdir.RESULT).read_text())

    found: dict[str, dict[str, list[Cell]]] = {name: {} for name in requests}
    chances: dict[str, list[dict]] = {name: [] for name in requests}
    columns, others = (*Progress.get_default_columns(), TimeElapsedColumn()), not training.processes.writes()
    with Progress(*columns, transient=True, disable=others) as progress:
        networks = len({(seed, name if case.own_network else "") for (name, seed), case in cases.items()})
        progress.add_task("networks", total=networks + len(config.seeds) * sum(map(len, arms.values())))
        shared = Run(
            config,
            pathlib.Path(workdir),
            AUGMENTS[config.data.augment],
            dataset.classes,
            mesh,
            rules,
            progress,
        )
        for seed in config.seeds:
            common = None
            for i, name in enumerate(requests):
                case = cases[name, seed]
                if case.own_network:
                    original = pretrain(shared, case, seed, f"seed{seed}/{name}/original")
                else:
                    original = common = common or pretrain(shared, case, seed, f"seed{seed}/original")
                cells_of, chance = carry_out(shared, name, i, seed, case, original, arms[name])
                for method, cell in cells_of.items():
                    found[name].setdefault(method, []).append(cell)
                if chance:
                    chances[name].append(chance)
    result = {
        "title": config.title,
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_digest": configuration.digest(config),
        "source": dataset.source._asdict(),
        "seeds": list(config.seeds),
        "requests": [
            results.request_record(
                name,
                request,
                cases[name, config.seeds[0]],
                found[name],
                noise=chances[name],
                labels=config.get("labels", {}),
                focus=config.evidence.method,
            )
            for name, request in requests.items()
        ],
        "wall_seconds": time.perf_counter() - begin,
    }
    training.workdir.write_result(workdir, result | training.workdir.environment())
    return result


def check_arms(config: ConfigDict, case: Case, arms: Mapping[str, Any]) -> None:
    """Refuse a method that cannot carry out a request, on a fresh network of the run's kind.

    Raises:
      RequestError: naming the method and what the request lacks.
    """
    classifier = build_classifier(config, case.train, case.num_classes)
    params, stats = classifier.init(jax.random.key(0), jnp.asarray(case.train["x"][:1]))
    forget, remain = take_rows(case.train, case.split.forget), take_rows(case.train, case.split.remain)
    validation = case.extra.get("validation")
    request = Request(
        classifier, params, stats, forget, remain, case.num_classes, initial=params, validation=validation
    )
    for name, method in arms.items():
        for each in [method] if isinstance(method, Method) else method.values():
            check_request(request, each.needs, name)


def pretrain(run: Run, case: Case, seed: int, name: str) -> Trained:
    """Train the original network on all rows of a case."""
    key = jax.random.key(seed)
    init_key, stream_key, run_key = jax.random.split(key, 3)
    classifier = build_classifier(run.config, case.train, case.num_classes)
    params, stats = classifier.init(init_key, case.train["x"][:1])
    everything = Request(
        classifier,
        None,
        None,
        case.train,
        case.train,
        case.num_classes,
        augment=run.augment,
        mesh=run.mesh,
        rules=run.rules,
    )
    plan = train_on(everything, case.train, params, stats, stream_key, **run.config.pretrain.to_dict())
    # The run donates its starting arrays; what methods need of them later is kept on the host.
    initial = jax.tree.map(np.asarray, params)
    return Trained(classifier, initial, stage(run, name, execute, plan, key=run_key, mesh=run.mesh, rules=run.rules))


def carry_out(run, name, number, seed, case, original, arms) -> tuple[dict[str, Cell], dict | None]:
    """One forget request by every method, each evaluated beside the retrained network; and the noise of retraining."""
    forget, remain = take_rows(case.train, case.split.forget), take_rows(case.train, case.split.remain)
    request = Request(
        classifier=original.classifier,
        params=original.outcome.params,
        stats=original.outcome.stats,
        forget=forget,
        remain=remain,
        num_classes=case.num_classes,
        augment=run.augment,
        mesh=run.mesh,
        rules=run.rules,
        initial=original.initial,
        validation=case.extra.get("validation"),
    )
    rows = evaluated_rows(case, forget, remain)
    place, digest = run.workdir / "stages" / f"seed{seed}" / name, configuration.digest(run.config)
    keys = lambda label: jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed), 1 + number), zlib.crc32(label.encode())
    )
    fresh = original.classifier.init(keys("untrained"), jnp.asarray(forget["x"][:1]))
    untrained = predictions(original.classifier, *fresh, {"forget": forget})
    found: dict[str, Cell] = {}

    def trained(method_name, method, **options):
        key = keys(method_name)
        return stage(run, f"seed{seed}/{name}/{method_name}", unlearn, method, request, key=key, **options)

    def retrained():
        outcome = trained("retrain", arms["retrain"], counted=False)  # finished: read from its last checkpoint
        return outcome.params, outcome.stats

    def measured(outcome, reference):
        cache = predictions(original.classifier, outcome.params, outcome.stats, rows)
        if reference and not all(np.isfinite(logits).all() for logits, _ in cache.values()):
            return diverged("its outputs are not finite", outcome.settings)
        values = evaluate(cache, reference and reference.cache, untrained=untrained, facts=case.facts)
        values["Moved"] = float(parameter_distance(*jax.device_get((outcome.params, request.params))))
        values |= relearned(run, request, outcome.params, outcome.stats, keys("relearn"))
        values |= summary(values, reference.values if reference else values)
        gap = reference and gaps(values, reference.values)
        return Cell(values, gap, outcome, cache)

    for method_name in ("retrain", *(name for name in arms if name != "retrain")):
        directory, method = place / method_name, arms[method_name]
        cell = cells.load(directory, digest)
        if cell is None:
            if not isinstance(method, Method):
                method = chosen(run, name, method_name, method, request, retrained, keys(f"sweep {method_name}"))
            options = {}
            if method_name == run.config.evidence.method and seed == run.config.seeds[0]:
                options = {"probe": parts_probe(request, **run.config.evidence.probe.to_dict())}
            try:
                outcome = trained(method_name, method, **options)
            except training.NonFiniteError as error:
                cell = diverged(f"its numbers were no longer finite at step {error.step}", method.settings)
            else:
                cell = measured(outcome, found.get("retrain"))
            cells.save(directory, cell, digest)
        else:
            run.progress.advance(run.progress.task_ids[0])
        found[method_name] = cell
    found = {"original": measured(original.outcome, found["retrain"])} | {key: found[key] for key in arms}
    chance = None
    if run.config.get("noise"):
        keep = {"file": place / "noise.json", "digest": digest}
        chance = retrain_noise(run, request, case, rows, found["retrain"], untrained, keys("noise"), **keep)
    if seed == run.config.seeds[0]:
        shown = run.config.evidence.method if found[run.config.evidence.method].cache else "retrain"
        evidence.write(
            run.workdir / f"evidence_{number}.npz",
            {key: cell.cache for key, cell in found.items() if cell.cache},
            ("original", shown, "retrain"),
            rows,
            run.classes if case.num_classes == len(run.classes) else tuple(map(str, range(case.num_classes))),
            found[shown].outcome,
            seed=seed,
        )
    return found, chance


def relearned(run, request, params, stats, key) -> dict[str, float]:
    """The relearn time of a network, where the config asks for it."""
    if not run.config.get("relearn"):
        return {}
    return {"Relearn": relearn_time(request, params, stats, key=key, **run.config.relearn.to_dict()).steps}


def chosen(run, name, method_name, candidates, request, retrained, key) -> Method:
    """The candidate nearest to retraining on validation rows, chosen on the first seed and kept for the others."""
    file = run.workdir / "stages" / f"{name}_{method_name}_choice.json"
    best = training.processes.from_first(lambda: json.loads(file.read_text())["best"] if file.exists() else None)
    if best is None:
        found = sweep(candidates, request, retrained(), key=key)
        gaps_of = {trial.name: trial.gap if math.isfinite(trial.gap) else trial.reason for trial in found.table}
        training.workdir.write_json(file, {"best": found.best, "gaps": gaps_of})
        best = training.processes.from_first(lambda: found.best)
    return candidates[best]


def diverged(said: str, settings: Mapping[str, Any]) -> Cell:
    """What is kept of a method that left no network to measure."""
    return Cell({}, {}, Outcome(None, None, [], {}, settings, (f"Collapsed: {said}.",), 0.0, 0.0, 0.0), {})


def retrain_noise(run, request, case, rows, reference, untrained, key, *, file, digest) -> dict:
    """Metrics of further networks retrained with other seeds, in one compiled program; kept like a finished cell."""
    record = training.processes.from_first(lambda: json.loads(file.read_text()) if file.exists() else None)
    if record and record.pop("digest") == digest:
        return record
    recipe = {name: value for name, value in run.config.methods.retrain.to_dict().items() if name != "method"}
    keep = np.isin(np.arange(len(case.train["y"])), case.split.remain)
    models, devices = run.config.noise.models, jax.device_count()
    mesh = training.make_mesh((("ensemble", -1),)) if run.mesh is not None and models % devices == 0 else None
    ensemble = train_ensemble(
        request.classifier,
        case.train,
        np.tile(keep, (models, 1)),
        jax.random.split(key, models),
        augment=run.augment,
        mesh=mesh,
        progress=run.progress,
        **recipe,
    )
    logits = {
        side: (ensemble_logits(request.classifier, ensemble, part["x"]), np.asarray(part["y"]))
        for side, part in rows.items()
        if len(part["y"])
    }
    values = []
    for i in range(models):
        cache = {side: (each[i], labels) for side, (each, labels) in logits.items()}
        found = evaluate(cache, reference.cache, untrained=untrained, facts=case.facts)
        found |= relearned(run, request, *member(ensemble, i), jax.random.fold_in(key, i))
        values.append(found | summary(found, reference.values))
    record = noise.noise_record(values, reference.values)
    training.workdir.write_json(file, record | {"digest": digest})
    return record


def evaluated_rows(case: Case, forget, remain) -> dict[str, Mapping[str, Any]]:
    """The rows that every network is asked about; test rows of classes that are forgotten whole stand apart."""
    whole = np.setdiff1d(np.unique(forget["y"]), np.unique(remain["y"]))
    gone = np.isin(case.test["y"], whole)
    return {
        "forget": forget,
        "remain": remain,
        "unseen": take_rows(case.test, ~gone),
        "unseen_forget": take_rows(case.test, gone),
        **{name: part for name, part in case.extra.items() if name != "validation"},
    }


def stage(run: Run, name: str, work: Callable, *args: Any, counted: bool = True, **options: Any) -> Outcome:
    """Run one network's training under its own checkpoints and metrics in `workdir/stages/name`."""
    directory, (keep, grace) = run.workdir / "stages" / name, checkpoint_options(run.config)
    with training.Checkpoints(directory / "checkpoints", **keep) as checkpoints, training.Writer(directory) as writer:
        outcome = work(
            *args,
            checkpoints=checkpoints,
            checkpoint_every=run.config.checkpoint_every,
            writer=writer,
            log_every=run.config.log_every,
            progress=run.progress,
            description=name,
            **grace,
            **options,
        )
    overall, *own = run.progress.task_ids
    run.progress.advance(overall, int(counted))
    for task in own:
        run.progress.remove_task(task)
    return outcome
