"""Many networks in one program: each with its own seed and its own rows, trained, continued and asked side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike, Bool, Float, PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.plans import check_numbers
from clujax.data import padded
from clujax.errors import RequestError
from clujax.models import Classifier
from clujax.training import NonFiniteError, fit, processes

AXIS = "ensemble"


class Ensemble(NamedTuple):
    """M networks as one: every array has a leading axis of members.

    Attributes:
      params, stats: stacked parameters and BatchNorm averages.
      diverged: `[M]`, members that stopped at their last finite parameters.
      records: what `clujax.training.fit` recorded; `loss` is the mean over the members that still train.
      compile_seconds, run_seconds: cost of making it.
    """

    params: PyTree
    stats: PyTree
    diverged: Bool[np.ndarray, " M"]
    records: tuple[dict, ...] = ()
    compile_seconds: float = 0.0
    run_seconds: float = 0.0


class _State(NamedTuple):
    params: Any
    stats: Any
    opt_state: Any
    step: Any
    key: Any
    alive: Any


def train_ensemble(
    classifier: Classifier,
    rows: Mapping[str, Any],
    keep: ArrayLike,
    keys: jax.Array,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: ArrayLike | Sequence[float] = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    tx: optax.GradientTransformation | None = None,
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    start: Ensemble | None = None,
    train: bool = True,
    augment: Callable | None = None,
    mesh: Mesh | None = None,
    tolerate: bool = False,
    **fit_options: Any,
) -> Ensemble:
    """Train M networks, member m on the rows of `keep[m]`, by the recipe of `retrain`; each is what it would be alone.

    Epoch e of a member is one permutation of all N rows, drawn from its own key, without the rows it does not keep; its
    batches are cut from the endless stream of its epochs. So every batch is full of kept rows, however many each member
    keeps; no other row touches it, through BatchNorm neither; it makes as many passes as alone, and rests when it is done
    before the others. Two members with one key and masks that differ in a row meet the other rows in the same order.

    The loss of a batch is Σ w ℓ / Σ |w|, 0 without weight. Negative weights climb (gradient ascent): nothing bounds that
    from below, so use few steps at a low rate, and `train=False` to leave BatchNorm's averages.

    Args:
      classifier: the network of all members.
      rows: `{"x": [N, ...], "y": [N]}`, held on the device once for all.
      keep: bool `[M, N]`, the rows each member trains on.
      keys: `[M]` typed keys; a member's initialisation, order, augmentation and dropout follow from its key as in
        `unlearn(retrain(...), key=...)`.
      epochs: passes over a member's rows.
      batch_size: rows in a batch of one member.
      learning_rate: one, or `[M]`, at the start of a cosine to zero.
      momentum, weight_decay: of SGD, as in `retrain`.
      tx: an optimizer of one network, in place of SGD and the three settings above.
      labels: integer `[N]` or `[M, N]` in place of `rows["y"]`: each member may be told its own (relabelling methods).
      weights: `[N]` or `[M, N]`, of any sign; 1 by default.
      start: networks to continue, in place of fresh ones; it stays usable, and what diverged in it stays marked.
      train: whether the networks run in training mode (BatchNorm by batch, dropout).
      augment: `augment(key, x) -> x`.
      mesh: lays the members out over its axis "ensemble", on which M must divide; no device waits for another.
      tolerate: a member that diverges stops at its last finite parameters and is marked, in place of an error.
      **fit_options: passed to `clujax.training.fit` (progress, checkpoints, writer, log_every, ...).

    Returns:
      The trained members. The program is compiled once for shapes and optimizer, and used again by later calls.

    Raises:
      RequestError: rows, masks, labels, weights, keys or start do not fit together.
      ValueError: a setting that cannot be meant.
      NonFiniteError: a member diverged (all of them, with `tolerate`).

    Source: U-LiRA (Hayes et al. 2024) and memorization scores (Feldman and Zhang 2020) rest on such ensembles.

    Cost: the gradients of M retrainings; parameters, momentum, one gradient and one batch a member are in memory at once.
    """
    keep, y, weights = _check_rows(rows, keep, labels, weights)
    members, counts = len(keep), keep.sum(1)
    _check_keys(keys, members)
    rate = _check_settings(members, epochs, batch_size, learning_rate, momentum, weight_decay, mesh)
    split = jax.vmap(jax.random.split)
    prepare_keys, run_keys = split(keys).T
    init_keys, stream_keys = split(prepare_keys).T
    x = jnp.asarray(rows["x"])
    params, stats = _starting(classifier, init_keys, x[:1], start, y)
    place = lambda tree, spec: tree if mesh is None else _placed(tree, NamedSharding(mesh, spec))
    total = np.ceil(epochs * np.ceil(counts / batch_size)).astype(np.int32)
    per_member, shared = {"rate": rate, "total": total}, {"x": x}
    for name, column in (("y", y.astype(np.int32)), ("weight", weights)):
        if column is not None:
            (per_member if column.ndim == 2 else shared)[name] = column
    per_member, shared = place(per_member, PartitionSpec(AXIS)), place(shared, PartitionSpec())
    per_member, shared = jax.tree.map(jnp.asarray, (per_member, shared))

    settings = (0.0, 0.0) if tx is not None else (momentum, weight_decay)  # tx has its own: one program for all of them
    program, optimizer = _program(classifier, augment, tx, *settings, train, mesh)
    state = _State(params, stats, _vmapped(optimizer.init, params), jnp.zeros(members, jnp.int32), run_keys, None)
    # Copied: the steps donate their state, and an optimizer may keep the very arrays of params.
    state = place(jax.tree.map(jnp.copy, state._replace(alive=jnp.ones(members, bool))), PartitionSpec(AXIS))
    indices = _member_batches(stream_keys, keep, batch_size)
    latest = (-1, np.ones(members, bool))

    def step(state, item):
        nonlocal latest
        s, index = item
        state, metrics = program(state, index, per_member, shared)
        alive, finite = metrics.pop("alive"), metrics.pop("finite")
        if s > latest[0]:  # after a bad step, fit may run earlier ones again
            latest = (s, alive)
        return state, metrics if tolerate else metrics | {"finite": finite}

    try:
        batch_at = lambda s: (s, place(indices(s), PartitionSpec(AXIS)))
        options = {"description": f"{members} networks"} | fit_options
        state, history = fit(step, state, batch_at, int(total.max()), **options)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; {_named(~np.asarray(latest[1]))}", error.step) from None
    state = processes.gathered(state._replace(key=None))
    diverged = ~np.asarray(state.alive)
    if diverged.all():
        raise NonFiniteError(_named(diverged), int(np.asarray(state.step).min()))
    if start is not None:
        diverged |= start.diverged
    return Ensemble(
        state.params, state.stats, diverged, tuple(history.records), history.compile_seconds, history.run_seconds
    )


def _placed(tree, sharding):
    return processes.put(tree, jax.tree.map(lambda leaf: sharding, tree))


@lru_cache(maxsize=16)
def _program(classifier, augment, tx, momentum, weight_decay, train, mesh):
    """The compiled step of all members, and the optimizer of one for `init`."""

    def member(state, index, own, shared):
        data = own | shared
        optimizer = tx or _cosine_sgd(own["rate"], own["total"], momentum, weight_decay)
        augment_key, network_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        inputs, labels = data["x"][index], data["y"][index]
        inputs = inputs if augment is None else augment(augment_key, inputs)

        def loss_fn(params):
            logits, stats = classifier.apply(params, state.stats, inputs, train=train, key=network_key)
            losses = cross_entropy(logits, labels)
            if "weight" not in data:
                return jnp.mean(losses), stats
            weight = data["weight"][index]
            size = jnp.sum(jnp.abs(weight))
            return jnp.sum(weight * losses) / jnp.where(size > 0, size, 1.0), stats

        (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        training = state.alive & (state.step < own["total"])
        moved = _State(
            optax.apply_updates(state.params, updates), stats, opt_state, state.step + 1, state.key, state.alive
        )
        new = jax.tree.map(partial(jnp.where, training & finite), moved._replace(key=0), state._replace(key=0))
        new = new._replace(key=state.key, alive=state.alive & (finite | ~training))
        return new, (loss, training & finite)

    def step(state, index, own, shared):
        all_members = jax.vmap(member, in_axes=(0, 0, 0, None))
        if mesh is not None:
            sides, whole = PartitionSpec(AXIS), PartitionSpec()
            all_members = jax.shard_map(
                all_members, mesh=mesh, in_specs=(sides, sides, sides, whole), out_specs=sides, check_vma=False
            )
        state, (losses, trained) = all_members(state, index, own, shared)
        loss = jnp.sum(jnp.where(trained, losses, 0.0)) / jnp.maximum(jnp.sum(trained), 1)
        told = {"loss": loss, "diverged": jnp.sum(~state.alive), "finite": jnp.all(state.alive), "alive": state.alive}
        return state, told

    return jax.jit(step, donate_argnums=0), tx or _cosine_sgd(0.0, 1, momentum, weight_decay)


def _cosine_sgd(rate, steps, momentum, weight_decay):
    """`optimizers.sgd` for a rate and a number of steps that are traced."""
    shape = optax.cosine_decay_schedule(1.0, 1)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(lambda count: rate * shape(count / steps)),
    )


def _member_batches(keys, keep, batch_size):
    """`indices(step)`: row numbers `[M, B]` from each member's own endless stream of epochs."""
    counts = keep.sum(1)[:, None]
    filled = np.arange(counts.max()) < counts
    orders: dict[int, np.ndarray] = {}
    ahead: dict[int, jax.Array] = {}

    def order(epoch):
        """Each member's kept rows in the order of an epoch; the next epoch's is dispatched to be drawn meanwhile."""
        if epoch not in orders:
            drawn = ahead.pop(epoch, None)
            drawn = np.asarray(_permutations(keys, epoch, keep.shape[1]) if drawn is None else drawn)
            ahead.clear()
            ahead[epoch + 1] = _permutations(keys, epoch + 1, keep.shape[1])
            orders[epoch] = np.zeros(filled.shape, np.int32)
            orders[epoch][filled] = drawn[np.take_along_axis(keep, drawn, 1)]
        return orders[epoch]

    def indices(step):
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, offsets = positions // counts, positions % counts
        for old in [epoch for epoch in orders if epoch < epochs.min()]:
            del orders[old]
        found = np.empty(epochs.shape, np.int32)
        for epoch in np.unique(epochs).tolist():
            where = epochs == epoch
            found[where] = order(epoch)[np.nonzero(where)[0], offsets[where]]
        return found

    return indices


@partial(jax.jit, static_argnames="count")
def _permutations(keys, epoch, count):
    return jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, epoch), count))(keys)


def ensemble_logits(
    classifier: Classifier, ensemble: Ensemble, inputs: ArrayLike, batch_size: int = 500
) -> Float[np.ndarray, "M N C"]:
    """Eval-mode logits of every member on every row, in passes of one shape (one compilation, whatever N is).

    Raises:
      ValueError: no rows, or batch_size below 1.
    """
    parts = []
    for batch in padded({"x": inputs}, min(batch_size, max(len(inputs), 1))):
        kept = int(batch["weight"].sum())
        parts.append(np.asarray(_logits(classifier.apply, ensemble.params, ensemble.stats, batch["x"]))[:, :kept])
    return np.concatenate(parts, 1)


@partial(jax.jit, static_argnums=0)
def _logits(apply, params, stats, inputs):
    return jax.vmap(lambda p, s: apply(p, s, inputs, train=False)[0])(params, stats)


def repeated(params: PyTree, stats: PyTree, members: int) -> Ensemble:
    """One network M times: the start of as many unlearning runs from the same original."""
    copies = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], members, 0), (params, stats))
    return Ensemble(*copies, np.zeros(members, bool))


def member(ensemble: Ensemble, index: int) -> tuple[PyTree, PyTree]:
    """Parameters and stats of one member."""
    return jax.tree.map(lambda leaf: leaf[index], (ensemble.params, ensemble.stats))


def _check_rows(rows, keep, labels, weights):
    """The masks, labels and weights as arrays that fit the rows, or an error."""
    missing = {"x", "y"} - set(rows)
    if missing:
        raise RequestError(f"rows must hold 'x' and 'y'; missing: {', '.join(sorted(missing))}.")
    count = len(rows["x"])
    keep, y = np.asarray(keep), np.asarray(rows["y"] if labels is None else labels)
    if keep.ndim != 2 or keep.shape[1] != count or keep.shape[0] < 1:
        raise RequestError(f"keep has shape {keep.shape}; expected [M, {count}] with M ≥ 1: a mask over rows for each.")
    if keep.dtype != bool:
        raise RequestError(f"keep has dtype {keep.dtype}; expected bool. Graded rows go into weights=.")
    empty = np.flatnonzero(~keep.any(1))
    if empty.size:
        raise RequestError(
            f"{empty.size} members keep no row (first: {empty[:5].tolist()}); each must keep at least one."
        )
    allowed = ((count,), keep.shape)
    if y.shape not in allowed:
        raise RequestError(
            f"labels have shape {y.shape}; expected {allowed[0]}, or {allowed[1]} for each member its own."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise RequestError(f"labels have dtype {y.dtype}; expected integer class labels.")
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        if weights.shape not in allowed:
            raise RequestError(f"weights have shape {weights.shape}; expected {allowed[0]} or {allowed[1]}.")
        if not np.isfinite(weights).all():
            raise RequestError("weights hold NaN or Inf; a row without a say has weight 0.")
    return keep, y, weights


def _check_keys(keys, members):
    if not jnp.issubdtype(getattr(keys, "dtype", None), jax.dtypes.prng_key) or keys.shape != (members,):
        shape = getattr(keys, "shape", type(keys).__name__)
        raise RequestError(
            f"keys have shape {shape}; expected {members} typed keys: jax.random.split(jax.random.key(0), {members})."
        )


def _check_settings(members, epochs, batch_size, learning_rate, momentum, weight_decay, mesh):
    """The learning rates `[M]`, or an error."""
    check_numbers({"epochs": epochs, "batch_size": batch_size, "momentum": momentum, "weight_decay": weight_decay})
    if not math.isfinite(epochs) or int(batch_size) != batch_size:
        raise ValueError(f"epochs is {epochs}, batch_size {batch_size}; expected a finite and a whole number.")
    rate = np.asarray(learning_rate, np.float32)
    if rate.shape not in ((), (members,)) or not (rate >= 0).all():
        raise ValueError(
            f"learning_rate is {learning_rate}; expected one, or one for each of {members} members, each ≥ 0."
        )
    if mesh is not None:
        if AXIS not in mesh.axis_names:
            raise ValueError(f"mesh has axes {mesh.axis_names}; expected {AXIS!r}: make_mesh((({AXIS!r}, -1),)).")
        if members % mesh.shape[AXIS]:
            raise ValueError(
                f"{members} members do not divide over the {mesh.shape[AXIS]} devices of {AXIS!r}; use a multiple of them."
            )
    return np.broadcast_to(rate, (members,))


def _starting(classifier, keys, inputs, start, y):
    """Stacked parameters and stats to start from, checked against labels before any work."""
    members = len(keys)
    if start is None:
        shapes = jax.eval_shape(jax.vmap(classifier.init, (0, None)), keys, inputs)
    else:
        shapes = jax.eval_shape(lambda: (start.params, start.stats))
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            if leaf.shape[:1] != (members,):
                name = jax.tree_util.keystr(path)
                raise RequestError(f"start{name} has shape {leaf.shape}; expected {members} members on its first axis.")
    logits, _ = jax.eval_shape(jax.vmap(partial(classifier.apply, train=False), (0, 0, None)), *shapes, inputs)
    classes = logits.shape[-1]
    if y.min() < 0 or y.max() >= classes:
        raise RequestError(f"labels span [{y.min()}, {y.max()}]; the network has classes [0, {classes}).")
    return _vmapped(classifier.init, keys, inputs) if start is None else (start.params, start.stats)


@partial(jax.jit, static_argnums=0)
def _vmapped(function, first, *rest):
    """`function` over the members of its first argument; one program for each function and shape, kept over calls."""
    return jax.vmap(lambda one: function(one, *rest))(first)


def _named(diverged):
    which = np.flatnonzero(diverged)
    return (
        f"{which.size} of {diverged.size} members diverged (first: {which[:5].tolist()}); try a lower learning rate, or"
        " tolerate=True to keep such members at their last finite parameters"
    )
