"""From a config to a network that has learned its first rows, in an experiment and in service."""

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray, PyTree
from ml_collections import ConfigDict

from clujax import training
from clujax.adaptation.method import execute
from clujax.adaptation.plans import train_on
from clujax.adaptation.settings import lookup
from clujax.continual import ledger
from clujax.continual.deployment import Deployment, State
from clujax.continual.evaluation import outputs_of
from clujax.continual.memory import empty
from clujax.continual.method import Rules, Scene, begin, opened, predictor, replicated, settle
from clujax.continual.metrics import groups
from clujax.continual.metrics import measure as measured
from clujax.continual.request import LEARNED, Change, standing_after
from clujax.continual.settings import build_method, stage_for
from clujax.errors import ConfigError
from clujax.training.checkpoint import committed


def base_network(
    config: ConfigDict, scene: Scene, rows: Int[np.ndarray, " n"], seed: int, directory: pathlib.Path, **options: Any
) -> tuple[PyTree, PyTree]:
    """Train a fresh network on the rows by `config.base`, resumable in its directory; given on the host."""
    init_key, open_key, stream_key, run_key = jax.random.split(jax.random.key(seed), 4)
    params, stats = opened(scene, *scene.classifier.init(init_key, scene.columns["x"][:1]), rows, open_key)
    columns = {name: column for name, column in scene.rows(rows).items() if name != "index"}
    plan = train_on(scene.bare, columns, params, stats, stream_key, **config.base.to_dict())
    with training.Checkpoints(directory / "checkpoints") as checkpoints, training.Writer(directory) as writer:
        kept = {"checkpoints": checkpoints, "writer": writer, "log_every": config.log_every}
        outcome = execute(plan, key=run_key, **kept, **options)
    return jax.device_get((outcome.params, outcome.stats))


def first_state(
    config: ConfigDict,
    scene: Scene,
    rules: Rules,
    rows: Int[np.ndarray, " n"],
    base: tuple[PyTree, PyTree],
    key: PRNGKeyArray,
    task: int | None = None,
) -> State:
    """A method's state once the base network has learned the rows; its memory is offered them."""
    options = {"keep_logits": rules.keep_logits, "sharding": replicated(scene.mesh)}
    memory = empty(config.memory.capacity, scene.columns, scene.num_classes, **options)
    none, nothing = np.zeros(0, np.int64), np.zeros(len(scene.columns["y"]), np.int8)
    change = Change(rows, none, none, task)
    learner = begin(scene, rules, *jax.tree.map(jnp.asarray, base), memory)
    adopt_key, settle_key = jax.random.split(key)
    learner = settle(scene, rules, rules.adopt(learner, change, adopt_key), change, settle_key)
    status = standing_after(nothing, change)
    tasks = None if task is None else np.where(status == LEARNED, task, -1).astype(np.int32)
    return State(learner, status, tasks)


def deployment(config: ConfigDict, workdir: str | pathlib.Path, **options: Any) -> Deployment:
    """The network of a config in service in a directory, taken up where its last request left it.

    `config.deploy` names the method and the classes that the base network has learned before the first request.

    Raises:
      ConfigError, DataNotFoundError: before anything is trained.
    """
    settings, seed = config.deploy, config.seeds[0]
    method = build_method(settings.method, lookup(config.methods, settings.method, "deploy.method").to_dict())
    stage = stage_for(config)
    scene, test, labels = stage.scene, stage.test, np.asarray(stage.scene.columns["y"])
    rules = method.build(scene)
    logits, first_key, key = jax.jit(predictor(scene, rules)), *jax.random.split(jax.random.key(seed))
    rows = np.flatnonzero(np.isin(labels, settings.classes))
    if not rows.size:
        raise ConfigError(f"deploy.classes is {settings.classes}; no training row is of these classes.")

    workdir = pathlib.Path(workdir)

    def born() -> State:
        if committed(workdir / ledger.CHECKPOINTS):  # only its form is asked for
            base = scene.classifier.init(jax.random.key(seed), scene.columns["x"][:1])
        else:
            base = base_network(config, scene, rows, seed, workdir / "base", description="base network")
        return first_state(config, scene, rules, rows, base, first_key, 1 if settings.task_aware else None)

    def measure(learner, change):
        group = groups(served.status, change, labels, test["y"])
        outputs = outputs_of(logits, learner, scene.columns["x"], test["x"])
        return measured(outputs, group, labels, test["y"])  # without distances: a network in service has no oracle

    served = Deployment(workdir, scene, rules, born, key=key, config=config.to_dict(), measure=measure, **options)
    # It knows rows that may be forgotten later, and is in the first checkpoint.
    shutil.rmtree(workdir / "base", ignore_errors=True)
    return served
