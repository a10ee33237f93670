"""Tools that the rivals' tests share: a stream run to its end, a request's batches, programs counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.continual import memory as memories
from clujax.continual.method import Scene, begin, carry_out
from clujax.continual.request import NEVER, Change, Request, check_request, standing_after
from clujax.models import cnn
from clujax.training.compiling import compilations as counting

CLASSES, ROWS = 6, 360


@pytest.fixture(scope="session")
def of():
    """`of(*classes)`: row numbers of whole classes, 60 each."""
    return lambda *classes: np.flatnonzero(np.isin(np.arange(ROWS) % CLASSES, classes))


@pytest.fixture(scope="session")
def batch_norm_scene(columns):
    return Scene(cnn(num_classes=CLASSES, widths=(4,)), columns, CLASSES)


@pytest.fixture(scope="session")
def run():
    """`run(scene, method, requests) -> (rules, learners)`: a learner before each request, and the last one."""

    def run(scene, method, requests, capacity=40, seed=0, rules=None):
        rules = rules or method.build(scene)
        memory = memories.empty(capacity, scene.columns, scene.num_classes, keep_logits=rules.keep_logits)
        params, stats = scene.classifier.init(jax.random.key(9), scene.columns["x"][:1])
        learners, status, tasks = [begin(scene, rules, params, stats, memory)], np.full(ROWS, NEVER), np.full(ROWS, -1)
        for i, request in enumerate(requests):
            change = check_request(request, status, tasks=tasks, task_aware=request.task is not None)
            if request.task is not None:
                tasks[change.learn] = request.task
            key = jax.random.fold_in(jax.random.key(seed), i)
            learners.append(carry_out(scene, rules, learners[-1], change, key).learner)
            status = standing_after(status, change)
        return rules, learners

    return run


@pytest.fixture(scope="session")
def learned(of):
    """A learner of classes 0 and 1 under any rules, with 40 of their rows in memory, by closed form rather than training."""

    def learned(scene, rules, capacity=40):
        params, stats = scene.classifier.init(jax.random.key(1), scene.columns["x"][:1])
        memory = memories.empty(capacity, scene.columns, scene.num_classes, keep_logits=rules.keep_logits)
        learner = begin(scene, rules, params, stats, memory)
        apply = scene.classifier.apply if rules.keep_logits else None
        memory = memories.insert_rows(
            memory, scene.columns, of(0, 1), jax.random.key(2), apply=apply, params=params, stats=stats
        )
        return learner._replace(memory=memory)

    return learned


@pytest.fixture(scope="session")
def change_of(of):
    """`change_of(learn, forget)` for that learner, by rows."""

    def change_of(learn=(), forget=(), task=None):
        rows = lambda given: np.sort(np.asarray(given, np.int64))
        return Change(rows(learn), rows(forget), np.setdiff1d(of(0, 1), forget), task)

    return change_of


@pytest.fixture(scope="session")
def plans():
    """`plans(rules, learner, change)`: what each phase of a request would run, memory purged as the driver does."""

    def plans(rules, learner, change, seed=3):
        gone = np.isin(np.arange(ROWS), change.forget)
        learner = learner._replace(memory=memories.purge(learner.memory, gone))
        return [phase.prepare(learner, jax.random.key(seed)) for phase in rules.phases(learner, change)]

    return plans


@pytest.fixture(scope="session")
def numbers_in(columns):
    """`numbers_in(tree)`: numbers of the training rows whose inputs stand anywhere in a tree of batches."""
    known = {np.asarray(x).tobytes(): i for i, x in enumerate(np.asarray(columns["x"]))}

    def numbers_in(tree):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        rows = [row for leaf in leaves if leaf.shape[1:] == columns["x"].shape[1:] for row in leaf]
        return {known[row.tobytes()] for row in rows}

    return numbers_in


@pytest.fixture(scope="session")
def compilations():
    """`with compilations() as count`: programs compiled so far are `count()`."""
    return counting


@pytest.fixture(scope="session")
def same():
    """Two trees agree to an absolute tolerance; 0 asks for the same bits."""

    def check(a, b, atol=1e-6):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(np.array(x), np.array(y), rtol=0, atol=atol), a, b)

    return check


@pytest.fixture(scope="session")
def mean_ce():
    """Mean cross-entropy of a batch, written out."""

    def of(scene, params, batch):
        logits = scene.classifier.apply(params, {}, batch["x"], train=False)[0]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None].astype(int), 1))

    return of


@pytest.fixture(scope="session")
def ask():
    """`ask(learn, forget, task)`: a request."""
    return lambda learn=(), forget=(), task=None: Request(learn, forget, task)
