"""What a continual method is, and the one driver that carries a request out with any of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray, PyTree

from clujax.adaptation.method import Outcome, Plan, execute
from clujax.adaptation.request import Request as RowsRequest
from clujax.continual import memory as memories
from clujax.continual.batches import rows_at
from clujax.continual.head import OPEN, open_classes
from clujax.continual.memory import Memory
from clujax.continual.request import Change
from clujax.errors import RequestError
from clujax.models import Classifier
from clujax.training import batch_sharding
from clujax.training.compiling import compile_seconds


class Scene(NamedTuple):
    """What all requests of a stream share.

    Attributes:
      classifier: the network, as pure functions.
      columns: training rows `x`, `y` on the device, all that may ever be asked for; a row's number is its place here.
      num_classes: outputs of the network.
      augment: training augmentation `augment(key, x) -> x`, or None.
      policy: how rows go into memory, `memory.reservoir` or `memory.balanced`.
      mesh, rules: where arrays lie when there is more than one device.
    """

    classifier: Classifier
    columns: Mapping[str, Any]
    num_classes: int
    augment: Callable | None = None
    policy: Callable = memories.reservoir
    mesh: Any = None
    rules: Any = None

    @property
    def bare(self) -> RowsRequest:
        """The scene as the losses and steps of `clujax.adaptation` take it, without rows."""
        return RowsRequest(
            self.classifier, None, None, {}, None, self.num_classes, self.augment, mesh=self.mesh, rules=self.rules
        )

    def rows(self, numbers: Int[np.ndarray, " n"]) -> dict[str, Any]:
        """Columns of the chosen rows."""
        return {name: column[numbers] for name, column in self.columns.items()} | {"index": numbers}

    def batches(self, numbers: Int[np.ndarray, " n"], batch_size: int, key: PRNGKeyArray) -> Callable:
        """`batch_at(step)` over the chosen rows; see `rows_at`."""
        sharding = None if self.mesh is None else batch_sharding(self.mesh)
        return rows_at(self.columns, numbers, batch_size, key, sharding=sharding)


def replicated(mesh: Any) -> jax.sharding.NamedSharding | None:
    """Whole on every device of a mesh; None without one."""
    return None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


class Learner(NamedTuple):
    """Everything that lives from one request to the next; a tree of arrays, kept in checkpoints.

    Attributes:
      params, stats: the network.
      memory: the rehearsal memory.
      extra: what a method keeps of its own (anchors, Fisher diagonals, side networks); `{}` for none.
    """

    params: PyTree
    stats: PyTree
    memory: Memory
    extra: PyTree


class Phase(NamedTuple):
    """One training run inside a request.

    Attributes:
      name: of its records and checkpoints.
      prepare: `prepare(learner, key) -> Plan`, from where the phases before it ended.
      keep: `keep(learner, params, stats) -> learner`; by default the new network takes the place of the old.
    """

    name: str
    prepare: Callable[[Learner, PRNGKeyArray], Plan]
    keep: Callable[[Learner, PyTree, PyTree], Learner] = lambda learner, params, stats: learner._replace(
        params=params, stats=stats
    )


class Rules(NamedTuple):
    """A method made for one scene: its steps are compiled once for all requests.

    Attributes:
      phases: `phases(learner, change) -> [Phase, ...]`; none for a request that asks nothing of this method.
      start: `start(learner) -> extra` before the first request.
      adopt: `adopt(learner, change, key) -> learner`, where a network that has learned its first rows by the original recipe
        belongs elsewhere than in the learner's place.
      end: `end(learner, change, key) -> learner` after the phases and before rows go into memory.
      keep_logits: whether memory keeps the network's logits beside each row (dark experience replay).
      offered: `offered(learner, change) -> rows`, which of the rows just learned memory may take; all of them by default.
      logits: `logits(learner, inputs) -> [B, C]` in eval mode, where it is not the classifier's; see `predictor`.
    """

    phases: Callable[[Learner, Change], Sequence[Phase]]
    start: Callable[[Learner], PyTree] = lambda learner: {}
    adopt: Callable[[Learner, Change, PRNGKeyArray], Learner] = lambda learner, change, key: learner
    end: Callable[[Learner, Change, PRNGKeyArray], Learner] = lambda learner, change, key: learner
    keep_logits: bool = False
    offered: Callable[[Learner, Change], Int[np.ndarray, " n"]] = lambda learner, change: change.learn
    logits: Callable[[Learner, Any], jax.Array] | None = None


class Method(NamedTuple):
    """A continual method, configured: `build(scene) -> Rules`; `replay` names what it keeps old rows by.

    Attributes:
      name: as in tables.
      settings: its arguments, for the record.
      build: makes its rules for a scene.
      replay: "memory" (rows in memory), "remain" (every remaining row) or "none".
    """

    name: str
    settings: Mapping[str, Any]
    build: Callable[[Scene], Rules]
    replay: str = "memory"


class Done(NamedTuple):
    """A request carried out: the learner after it, one outcome per phase (without networks), seconds without compiling."""

    learner: Learner
    outcomes: Mapping[str, Outcome]
    seconds: float
    warnings: tuple[str, ...]


def begin(scene: Scene, rules: Rules, params: PyTree, stats: PyTree, memory: Memory) -> Learner:
    """The learner before the first request."""
    learner = Learner(params, stats, memory, {})
    return learner._replace(extra=rules.start(learner))


def predictor(scene: Scene, rules: Rules) -> Callable[[Learner, Any], jax.Array]:
    """`logits(learner, inputs) -> [B, C]` in eval mode: the rules' own, or the classifier's."""
    own = lambda learner, inputs: scene.classifier.apply(learner.params, learner.stats, inputs, train=False)[0]
    return rules.logits or own


def carry_out(
    scene: Scene,
    rules: Rules,
    learner: Learner,
    change: Change,
    key: PRNGKeyArray,
    *,
    options: Callable[[str], Mapping[str, Any]] = lambda phase: {},
) -> Done:
    """One request: purge memory of what is to be forgotten, adapt, put what was learned into memory.

    Everything follows from the arguments, so that a request begun again ends in the same bits.

    Args:
      scene, rules: the stream's.
      learner: as the request before it left it.
      change: from `check_request`.
      key: of this request.
      options: `options(phase name)`, passed to `execute` (checkpoints, writer, progress, ...).

    Raises:
      RequestError: a label that the network has no output for; or as the method says.
      NonFiniteError: a phase diverged.
    """
    check_labels(scene, change)
    with compile_seconds() as compiling:
        began = time.perf_counter()
        learner, outcomes = _adapted(scene, rules, learner, change, key, options)
        seconds = time.perf_counter() - began - compiling()
    warnings = tuple(text for outcome in outcomes.values() for text in outcome.warnings)
    return Done(learner, outcomes, seconds, warnings)


def check_labels(scene: Scene, change: Change) -> None:
    """Refuse rows to learn whose class the network has no output for.

    Raises:
      RequestError: naming the classes and the first ten rows.
    """
    labels = np.asarray(scene.columns["y"])[change.learn]
    beyond = labels >= scene.num_classes
    if beyond.any():
        raise RequestError(
            f"rows {', '.join(map(str, change.learn[beyond][:10]))} are of the classes {np.unique(labels[beyond]).tolist()},"
            f" but the network has {scene.num_classes} outputs: build it with as many as the stream will need, and let its"
            " head grow (grow_head)."
        )


def _adapted(scene, rules, learner, change, key, options):
    open_key, settle_key, run_key = jax.random.split(key, 3)
    total = len(scene.columns["y"])
    if len(change.forget):  # before any gradient: what is to be forgotten is never rehearsed
        gone = np.zeros(total, bool)
        gone[change.forget] = True
        learner = learner._replace(memory=memories.purge(learner.memory, gone))
    params, stats = opened(scene, learner.params, learner.stats, change.learn, open_key)
    learner = learner._replace(params=params, stats=stats)
    outcomes: dict[str, Outcome] = {}
    for i, phase in enumerate(rules.phases(learner, change)):
        prepare_key, phase_key = jax.random.split(jax.random.fold_in(run_key, i))
        plan = phase.prepare(learner, prepare_key)
        outcome = execute(plan, key=phase_key, **options(phase.name))
        learner = phase.keep(learner, outcome.params, outcome.stats)
        outcomes[phase.name] = outcome._replace(params=None, stats=None)
    learner = settle(scene, rules, learner, change, settle_key)
    jax.block_until_ready(learner.params)
    return learner, outcomes


def settle(scene: Scene, rules: Rules, learner: Learner, change: Change, key: PRNGKeyArray) -> Learner:
    """What follows once the network has adapted: the method's own `end`, then memory is offered what was learned."""
    memory_key, end_key = jax.random.split(key)
    learner = rules.end(learner, change, end_key)
    offered = rules.offered(learner, change)
    if len(offered):
        learner = learner._replace(memory=remember(scene, rules, learner, offered, memory_key))
    return learner


def opened(
    scene: Scene, params: PyTree, stats: PyTree, rows: Int[np.ndarray, " n"], key: PRNGKeyArray
) -> tuple[PyTree, PyTree]:
    """The network with the outputs of all classes among the rows open, where its head grows."""
    if OPEN not in stats or not len(rows):
        return params, stats
    classes = np.unique(np.asarray(scene.columns["y"])[rows])
    return open_classes(scene.classifier, params, stats, classes.tolist(), scene.columns["x"][:1], key)


def remember(scene: Scene, rules: Rules, learner: Learner, rows: Int[np.ndarray, " n"], key: PRNGKeyArray) -> Memory:
    """Offer rows to memory, with the network's logits where the method keeps them."""
    apply = scene.classifier.apply if rules.keep_logits else None
    return memories.insert_rows(
        learner.memory,
        scene.columns,
        rows,
        key,
        policy=scene.policy,
        apply=apply,
        params=learner.params,
        stats=learner.stats,
    )
