"""A deployment in seconds: six overlapping classes, a small perceptron, and a method of a few steps a request.

Rows to learn are descended on, rows to forget ascended on once. Imported by tests, and by the script that they kill.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.losses import descend
from clujax.adaptation.method import Plan
from clujax.adaptation.request import compiled_step
from clujax.continual import memory as memories
from clujax.continual.deployment import Deployment, State
from clujax.continual.ledger import Entry
from clujax.continual.method import Phase, Rules, Scene, begin
from clujax.continual.request import LEARNED, Request
from clujax.models import mlp

CLASSES, ROWS, STEPS, MEMORY = 6, 120, 6, 12
CONFIG = {"system": "continual", "seed": 0, "widths": (8,)}
TIMES = ("times", "seal")  # what two runs of one stream may differ in


def columns():
    rng = np.random.default_rng(0)
    y = (np.arange(ROWS) % CLASSES).astype(np.int32)
    centres = rng.normal(size=(CLASSES, 4, 4, 1))
    return {"x": jnp.asarray(centres[y] + rng.normal(size=(ROWS, 4, 4, 1)), jnp.float32), "y": jnp.asarray(y)}


def scene():
    return Scene(mlp(num_classes=CLASSES, widths=(8,)), columns(), CLASSES)


def rules(scene, learning_rate=0.05):
    """A few steps on the rows to learn, one ascent step on the rows to forget; momentum, so that a restart could be seen."""
    tx = optax.sgd(learning_rate, momentum=0.9)
    step = compiled_step(scene.bare, descend(scene.bare), tx)
    away = compiled_step(scene.bare, descend(scene.bare, weight=-1.0), tx)

    def phases(learner, change):
        def plan(rows, name, step, count):
            def prepare(learner, key):
                batch_at = scene.batches(rows, 8, key)
                return Plan(learner.params, learner.stats, tx, {name: step}, lambda s: [(name, batch_at(s))], count)

            return prepare

        given = []
        if len(change.forget):
            given.append(Phase("steps", plan(change.forget, "forget", away, 1)))
        if len(change.learn):
            given.append(Phase("steps", plan(change.learn, "learn", step, STEPS)))
        return given

    return Rules(phases, start=lambda learner: {"count": jnp.zeros((), jnp.int32)}, end=counted)


def counted(learner, change, key):
    return learner._replace(extra={"count": learner.extra["count"] + 1})


def state_of(scene, rules, task_aware=False):
    """Before the first request: an untrained network, classes 0 and 1 count as learned."""
    params, stats = scene.classifier.init(jax.random.key(0), scene.columns["x"][:1])
    memory = memories.empty(MEMORY, scene.columns, scene.num_classes)
    learned = np.asarray(scene.columns["y"]) < 2
    tasks = jnp.where(learned, 0, -1).astype(jnp.int32) if task_aware else None
    return State(
        begin(scene, rules, params, stats, memory), jnp.asarray(np.where(learned, LEARNED, 0), jnp.int8), tasks
    )


def measure(learner, change):
    """Any numbers that follow from the learner and the request alone."""
    return {"norm": optax.tree.norm(learner.params), "forgotten": len(change.forget)}


def deploy(directory, *, scene, rules, task_aware=False, **options):
    options = {"key": jax.random.key(7), "config": CONFIG, "measure": measure} | options
    return Deployment(directory, scene, rules, lambda: state_of(scene, rules, task_aware), **options)


def of_class(*classes):
    return [i for i in range(ROWS) if i % CLASSES in classes]


STREAM = (
    Request(learn=of_class(2), name="two"),
    Request(forget=[0, 6, 12], name="three rows"),
    Request(forget=[0, 18], name="again"),  # refused: row 0 is forgotten already
    Request(learn=of_class(3), forget=[1, 7], name="both"),
    Request(learn=of_class(4), name="four"),
    Request(learn=[0, 6], relearn=True, name="back"),
)


def contents(entries):
    """What must be the same in an undisturbed run."""
    return [tuple(getattr(entry, name) for name in Entry._fields if name not in TIMES) for entry in entries]
