"""MEHL-Soup: mixing weights on the hyperplane Σ w = 1, learned block by block with b models in memory.

Li, Jiang, Liu, Huang, Kwok: Learning Scalable Model Soup on a Single GPU: An Efficient Subspace Training Strategy (ECCV
2024, arXiv 2407.03641). One coefficient per model and group: `groups.whole` is MEHL-Soup, `groups.leaf` MEHL-Soup+; a
block of all K models is HL-Soup(+).
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PRNGKeyArray, PyTree

from clujax.errors import CheckpointError
from clujax.geometry.mixing import Groups, wide_dtype
from clujax.geometry.paths import named
from clujax.soups import adapters, statistics
from clujax.soups.batches import Batches, repeatable
from clujax.soups.descent import Descent, LossFn, as_model, held_out_loss
from clujax.soups.directions import Normalize, Span, block_directions, dense, mean_of, unit
from clujax.soups.groups import Rule, leaf, make_groups
from clujax.soups.pools import Pool, load_checked
from clujax.soups.reference import Reference, moved, on_simplex, running
from clujax.training.checkpoint import Checkpoints
from clujax.training.sharding import shard_batch

POOL = "pool"  # the mesh axis over which the models of a block are divided


class Soup(NamedTuple):
    """One model made of K.

    Attributes:
        params: in the dtypes of the pool.
        weights: mixing weights w [K, L]; every column sums to 1.
        groups: which leaves column l is about.
        history: a record per block, or per step of the method.
    """

    params: PyTree
    weights: Float[np.ndarray, "K L"]
    groups: Groups
    history: list[dict]


class NonFiniteBlockError(FloatingPointError):
    """The loss was not finite in a block; `soup` is what the block started from."""

    def __init__(self, message: str, soup: Soup):
        super().__init__(message)
        self.soup = soup


def shuffle(key: PRNGKeyArray, count: int) -> np.ndarray:
    """A new order of the models for every sweep."""
    return np.asarray(jax.random.permutation(key, count))


def given(order: Sequence[int]) -> Callable[[PRNGKeyArray, int], np.ndarray]:
    """The same order in every sweep."""

    def fixed(key, count):
        if sorted(order) != list(range(count)):
            raise ValueError(f"order is {list(order)}; expected every one of the {count} models once.")
        return np.asarray(order)

    return fixed


def always(before: float, after: float) -> bool:
    """Keep what a block gives, as the official script does."""
    return True


def improve(before: float, after: float) -> bool:
    """Keep a block only if it lowers the held-out loss; else go back to where it started."""
    return after < before


def mehl(
    pool: Pool,
    loss_fn: LossFn,
    batches: Batches,
    *,
    key: PRNGKeyArray,
    block_size: int | None = None,
    groups: Rule = leaf,
    inner: Any = Descent(),
    sweeps: int = 1,
    reference: Reference = running,
    normalize: Normalize = unit,
    order: Callable[[PRNGKeyArray, int], np.ndarray] = shuffle,
    accept: Callable[[float, float], bool] = always,
    patience: int | None = None,
    extrapolate: bool = True,
    stats: statistics.Policy | None = None,
    directions_dtype: Any = None,
    evaluate: Callable[[PyTree], dict[str, float]] | None = None,
    checkpoints: Checkpoints | None = None,
    mesh: Mesh | None = None,
    prefetch: bool = True,
    callback: Callable[[dict], None] | None = None,
) -> Soup:
    """Learn the mixing weights of a pool on held-out batches.

    Memory on the device: (b + 3)·D floats and the activations of one model, whatever K is; on the host one block that is
    loaded ahead. An `AdapterPool` whose block holds all its adapters needs O(K·r·(n + m)): its inner products are closed.
    Cost of a step: one gradient of one model and 4·b·D operations.

    Args:
        pool: K ≥ 2 models.
        loss_fn: `loss_fn(params, batch, key) -> (loss, aux)` with the mean loss of a batch; an `Objective` is one.
        batches: held-out batches of one shape, iterated anew in every epoch: a list, or any iterable that is no iterator.
        key: for the order and for loss functions that draw.
        block_size: b models at a time; None for all K.
        groups: rule of which leaves share a coefficient (`clujax.soups.groups`).
        inner: how a block's coefficients are found: `Descent(...)`, `GaussNewton(...)`.
        sweeps: visits of every model.
        reference: `running` (official script), `running_from_mean` or `pool_mean` (paper).
        normalize: `unit` (official), `mean_norm` or `raw` lengths of directions.
        order: `shuffle` or `given([...])`.
        accept: `always`, `improve` or any (loss before, loss after) -> bool; a block that is refused is undone.
        patience: stop after so many blocks in a row without a lower held-out loss.
        extrapolate: False holds all weights in [0, 1] by a projection after every step (an ablation; not for `pool_mean`).
        stats: what becomes of BatchNorm statistics; must be given where there are any.
        directions_dtype: bfloat16 halves the memory of the block; the center stays float32.
        evaluate: numbers of a model to record after every inner epoch; nothing is chosen by them.
        checkpoints: resume at the end of a block; the result equals that of an undisturbed run.
        mesh: divides the block over the axis "pool" and batches over "data", as far as the mesh has them.
        prefetch: load the next block in a thread while this one is learned.
        callback: called with each block's record, after its checkpoint.

    Returns:
        The soup; its history has per block: models, loss of every step, held-out loss before and after (where asked for by
        `accept` or `patience`), whether it was kept, the range of its weights, seconds.

    Raises:
        ValueError: as `load_checked` and `make_groups`; K < 2, b < 1, no batches, batches that end after one pass, a first
            block of one model under `running`, BatchNorm statistics without a policy.
        NonFiniteBlockError: naming the block; its `soup` is the one before.
        CheckpointError: those here are of another run.
    """
    count, begin = len(pool), time.perf_counter()
    size = check_block(count, block_size)
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; expected at least 1.")
    if not extrapolate and not reference.moves:
        raise ValueError(
            "extrapolate=False needs a reference that moves with the soup; use running or running_from_mean."
        )
    if size == 1 and reference is running:
        raise ValueError(
            "block_size is 1: under `running` the first soup would be a single model with no direction to move along. "
            "Use block_size of at least 2, or reference=running_from_mean or pool_mean."
        )
    groups = make_groups(pool.struct, groups, statistics.frozen(pool.struct, stats))
    dtypes = tuple(each.dtype for each in jax.tree.leaves(pool.struct))
    closed = isinstance(pool, adapters.AdapterPool) and size == count
    layout, rows = _layout(mesh, size)
    held = repeatable(batches, sweeps * -(-count // size) * getattr(inner, "epochs", 2))
    if mesh is not None:
        held = [shard_batch(batch, mesh) for batch in held]
    span = adapters.span(pool, groups) if closed else dense(groups)
    solve = inner.prepare(span, loss_fn, len(held), dtypes)
    judged = accept is not always or patience is not None
    loss_of = held_out_loss(loss_fn, dtypes)
    blocks = [block for sweep in range(sweeps) for block in _blocks(order, key, sweep, count, size)]
    if len(blocks[0]) == 1 and reference is running:
        raise ValueError("the first block has one model; use reference=running_from_mean or pool_mean.")
    fixed = statistics.weights(stats, count)
    constants: dict[str, np.ndarray] = {}
    load = lambda k: load_checked(pool, k, constants)
    put = _putter(mesh)

    def point(weights, models=None):
        """The soup of some mixing weights by one streaming pass over the models that have any."""
        chosen = [k for k in range(count) if np.any(weights[k])]
        held_models = dict(models or ())
        found = (held_models[k] if k in held_models else load(k) for k in chosen)
        return put(mean_of(found, weights[chosen].astype(np.float32), groups, pool.struct))

    start = np.zeros((count, len(groups.names)))
    if stats is not None and groups.frozen:
        start[:, groups.frozen[0]] = fixed
    moving = [i for i in range(len(groups.names)) if i not in groups.frozen]
    first = list(reference.first(count, blocks[0]))
    start[np.ix_(first, moving)] = 1 / len(first)

    state = _State(None, start.copy(), np.zeros_like(start), 0, [])
    run_name = {"models": list(pool.names), "blocks": len(blocks), "size": size, "reference": reference.moves}
    if checkpoints is not None:
        like = _arrays(jax.tree.map(lambda s: jnp.zeros(s.shape, wide_dtype(s.dtype)), pool.struct), start, start)
        if (found := checkpoints.restore(like)) is not None:
            state = _resumed(found, run_name, checkpoints)
            state = state._replace(theta=put(state.theta))
    source = _Loader(blocks[state.block :], load, prefetch and not closed)
    origin_weights, origin = start, None
    try:
        for number in range(state.block, len(blocks)):
            block, began = blocks[number], time.perf_counter()
            models = [] if closed else source.take()
            if state.theta is None:
                state = state._replace(theta=point(start, zip(block, models)))
            if reference.moves:
                origin, origin_weights = state.theta, state.weights
            elif origin is None:
                origin = point(start) if number else state.theta
            if closed:
                directions, scale = adapters.directions(pool, origin_weights, groups, normalize)
            else:
                padded = rows
                stream = _drained(models)
                directions, scale = block_directions(
                    origin, stream, padded, groups, normalize, dtype=directions_dtype, layout=layout
                )
            source.ahead()
            scales = np.asarray(scale, np.float64)[: len(block)]
            if number == 0 and not scales.any() and len(blocks) == 1:
                warnings.warn("all models of the pool are the same; the soup is that model", stacklevel=2)
            alpha = np.zeros_like(start) if reference.moves else state.alpha
            before = np.where(scales > 0, alpha[block], 0)
            x0 = np.zeros(scale.shape)
            x0[: len(block)] = np.divide(before, scales, out=np.zeros_like(scales), where=scales > 0)
            center = state.theta
            if before.any():
                center = put(span.mix(center, directions, jnp.asarray(-x0, scale.dtype)))
            constrain = None if extrapolate else _scaled(on_simplex(state.weights, block), scale, len(block))
            epochs: list[dict] = []

            def told(epoch, x, center=center, directions=directions, epochs=epochs):
                if evaluate is not None:
                    epochs.append({"epoch": epoch} | evaluate(as_model(span.mix(center, directions, x), dtypes)))

            x, losses = solve(
                center, directions, jnp.asarray(x0, scale.dtype), held, jax.random.fold_in(key, count + number),
                constrain=constrain, told=told,
            )  # fmt: skip
            live = sum(each.nbytes for each in jax.live_arrays())
            if not np.isfinite(losses).all() or not bool(jnp.isfinite(x).all()):
                names = ", ".join(pool.names[k] for k in block)
                raise NonFiniteBlockError(
                    f"the loss was not finite in block {number} of {len(blocks)} (models {names}); the soup from before it is "
                    "in this error's `soup`. Try a lower learning rate or clip_norm",
                    Soup(as_model(state.theta, dtypes), state.weights, groups, state.history),
                )
            theta = put(span.mix(center, directions, x))
            change = np.asarray(x, np.float64)[: len(block)] * scales - before
            weights = moved(state.weights, origin_weights, block, change)
            record = {"block": number, "models": [int(k) for k in block], "losses": losses.tolist(), "accepted": True}
            if judged:
                was = state.history[-1]["after"] if state.history else loss_of(state.theta, held)
                now = loss_of(theta, held)
                record |= {"before": was, "after": now, "accepted": bool(accept(was, now))}
                if not record["accepted"]:
                    theta, weights, change, record["after"] = state.theta, state.weights, 0 * change, was
            if epochs:
                record["epochs"] = epochs
            alpha = alpha.copy()
            alpha[block] = before + change
            low, high = weights[:, moving].min(), weights[:, moving].max()
            record |= {"lowest": float(low), "highest": float(high), "live_bytes": live,
                       "sum_error": float(np.abs(weights.sum(0) - 1).max()), "seconds": time.perf_counter() - began}  # fmt: skip
            del directions, center
            state = _State(theta, weights, alpha, number + 1, [*state.history, record])
            if checkpoints is not None:
                checkpoints.save(
                    state.block, _arrays(theta, weights, alpha), {"run": run_name, "history": state.history}
                )
            if callback is not None:
                callback(record)
            if patience is not None and _stale(state.history) >= patience:
                break
    finally:
        source.close()
    params = as_model(state.theta, dtypes)
    if stats is not None:
        params = stats.finish(params)
    state.history[-1]["total_seconds"] = time.perf_counter() - begin
    return Soup(params, state.weights, groups, state.history)


def check_block(count: int, block_size: int | None) -> int:
    """The size of a block of a pool; one that is larger than the pool is cut, with a note.

    Raises:
        ValueError: fewer than two models, or a size below 1.
    """
    if count < 2:
        raise ValueError(f"the pool has {count} model; a soup needs at least 2.")
    if block_size is None:
        return count
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected at least 1.")
    if block_size > count:
        warnings.warn(f"block_size is {block_size}, the pool has {count} models: using {count}", stacklevel=3)
    return min(block_size, count)


class _State(NamedTuple):
    theta: PyTree | None
    weights: np.ndarray
    alpha: np.ndarray
    block: int
    history: list[dict]


def _arrays(theta: PyTree, weights: np.ndarray, alpha: np.ndarray) -> dict:
    # As pairs of float32: jax has no float64 by default, and weights are kept in it.
    return {"theta": theta, "weights": _halves(weights), "alpha": _halves(alpha)}


def _halves(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float64).view(np.uint32)


def _resumed(found: tuple, run: dict, checkpoints: Checkpoints) -> _State:
    block, arrays, extra = found
    if extra.get("run") != run:
        raise CheckpointError(
            f"the checkpoints in {checkpoints.directory} are of another soup ({extra.get('run')}); expected {run}. "
            "Give another directory"
        )
    weights, alpha = (np.asarray(arrays[name]).view(np.float64) for name in ("weights", "alpha"))
    return _State(arrays["theta"], weights, alpha, block, extra["history"])


def _blocks(order: Callable, key: PRNGKeyArray, sweep: int, count: int, size: int) -> Iterator[list[int]]:
    found = [int(k) for k in order(jax.random.fold_in(key, sweep), count)]
    for begin in range(0, count, size):
        yield found[begin : begin + size]


def _layout(mesh: Mesh | None, size: int) -> tuple[NamedSharding | None, int]:
    """Where the rows of a block lie, and how many there must be."""
    if mesh is None or POOL not in mesh.axis_names:
        return None, size
    parts = mesh.shape[POOL]
    return NamedSharding(mesh, PartitionSpec(POOL)), -(-size // parts) * parts


def _putter(mesh: Mesh | None) -> Callable[[PyTree], PyTree]:
    if mesh is None:
        return lambda tree: tree
    whole = NamedSharding(mesh, PartitionSpec())
    return lambda tree: jax.device_put(tree, whole)


def _drained(models: list) -> Iterator[PyTree]:
    """The models in order, each let go when the next is asked for."""
    while models:
        yield models.pop(0)


def _scaled(constrain: Callable, scale: Any, rows: int) -> Callable:
    alive = scale[:rows] > 0

    def on_x(x):
        y = constrain(x[:rows] * scale[:rows])
        inside = jnp.where(alive, y / jnp.where(alive, scale[:rows], 1), 0.0)
        return jnp.concatenate([inside, x[rows:]]).astype(x.dtype)

    return on_x


def _stale(history: list[dict]) -> int:
    """Blocks since the held-out loss last fell."""
    count = 0
    for record in reversed(history):
        if record["after"] < record["before"]:
            break
        count += 1
    return count


class _Loader:
    """The models of each block in turn; the next block is read by a thread after `ahead`."""

    def __init__(self, blocks: Sequence[Sequence[int]], load: Callable[[int], PyTree], background: bool):
        self._blocks, self._load = iter(blocks), load
        self._thread = ThreadPoolExecutor(1) if background else None
        self._next = None
        self._background = background

    def take(self) -> list[PyTree]:
        """The models of the next block."""
        if self._next is not None:
            waiting, self._next = self._next, None
            return waiting.result()
        return self._read(next(self._blocks))

    def ahead(self) -> None:
        """Begin to read the block after; called when no model of this one is held any more."""
        if self._background and (block := next(self._blocks, None)) is not None:
            self._next = self._thread.submit(self._read, block)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, block: Sequence[int]) -> list[PyTree]:
        return [self._load(k) for k in block]
