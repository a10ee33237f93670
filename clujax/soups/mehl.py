"""MEHL-Soup: mixing weights on the hyperplane Σ w = 1, learned block by block with b models in memory.

Li, Jiang, Liu, Huang, Kwok: Learning Scalable Model Soup on a Single GPU: An Efficient Subspace Training Strategy (ECCV
2024, arXiv 2407.03641). One coefficient per model and group: `groups.whole` is MEHL-Soup, `groups.leaf` MEHL-Soup+; a
block of all K models is HL-Soup(+).
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from clujax.soups import adapters, resume, statistics
from clujax.soups.batches import Batches, repeatable
from clujax.soups.descent import Descent, LossFn, held_out_loss
from clujax.soups.directions import Normalize, block_directions, dense, mean_of, unit
from clujax.soups.groups import Rule, leaf, make_groups
from clujax.soups.loading import Loader, drained
from clujax.soups.pools import Pool, load_checked
from clujax.soups.reference import Reference, moved, on_simplex, running
from clujax.soups.soup import Soup, as_model, dtypes_of
from clujax.training.checkpoint import Checkpoints
from clujax.training.sharding import shard_batch

POOL = "pool"  # the mesh axis over which the models of a block are divided


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
    inner: Any = Descent(),  # noqa: B008  (a value)
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
        The soup; its history has per block: models, loss of every step, held-out loss before and after (where `accept` or
        `patience` ask for it), whether it was kept, the range of its weights, seconds, bytes of live arrays.

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
        raise ValueError("extrapolate=False needs a reference that moves with the soup: running or running_from_mean.")
    blocks = [block for sweep in range(sweeps) for block in _blocks(order, jax.random.fold_in(key, sweep), count, size)]
    if len(blocks[0]) == 1 and reference is running:
        raise ValueError(
            "block_size is 1: under `running` the first soup would be one model, without a direction to move along. "
            "Use block_size of at least 2, or reference=running_from_mean or pool_mean."
        )
    groups = make_groups(pool.struct, groups, statistics.frozen(pool.struct, stats))
    held = repeatable(batches, len(blocks) * getattr(inner, "epochs", 2))
    held = held if mesh is None else [shard_batch(batch, mesh) for batch in held]
    closed = isinstance(pool, adapters.AdapterPool) and size == count
    span = adapters.span(pool, groups) if closed else dense(groups)
    dtypes, layout, rows, put = dtypes_of(pool), *_placed(mesh, size)
    solve, loss_of = inner.prepare(span, loss_fn, len(held), dtypes), held_out_loss(loss_fn, dtypes)
    judged = accept is not always or patience is not None
    constants: dict[str, np.ndarray] = {}

    def load(k):
        return load_checked(pool, k, constants)

    def point(weights, at_hand):
        """The soup of these weights; models that are not at hand are streamed."""
        chosen = [k for k in range(count) if np.any(weights[k])]
        models = (at_hand[k] if k in at_hand else load(k) for k in chosen)
        return put(mean_of(models, weights[chosen].astype(np.float32), groups, pool.struct))

    start = statistics.start_weights(groups, count, list(reference.first(count, blocks[0])), stats)
    moving = [number for number in range(len(groups.names)) if number not in groups.frozen]
    state = resume.Progress(None, start, np.zeros_like(start), 0, [])
    run = {"models": list(pool.names), "order": blocks, "moves": reference.moves, "groups": list(groups.names)}
    if checkpoints is not None:
        state = resume.restore(checkpoints, state, pool.struct, run)
        state = state._replace(theta=None if state.theta is None else put(state.theta))
    origin, origin_weights, alive = None, start, state.block > 0

    with Loader([] if closed else blocks[state.block :], load, prefetch) as source:
        for number in range(state.block, len(blocks)):
            if patience is not None and _stale(state.history) >= patience:
                break
            block, began = blocks[number], time.perf_counter()
            models = [] if closed else source.take()
            if state.theta is None:
                state = state._replace(theta=point(start, dict(zip(block, models))))
            if reference.moves:
                origin, origin_weights = state.theta, state.weights
            elif origin is None:
                origin = point(start, {}) if number else state.theta
            if closed:
                directions, scale = adapters.directions(pool, origin_weights, groups, normalize)
                directions, scale = put(directions), put(scale)
            else:
                directions, scale = block_directions(
                    origin, drained(models), rows, groups, normalize, dtype=directions_dtype, layout=layout
                )
            source.ahead()
            scales = np.asarray(scale, np.float64)[: len(block)]
            alive = alive or bool(scales.any())
            before = np.where(scales > 0, 0 if reference.moves else state.alpha[block], 0)
            x0 = np.zeros(scale.shape)
            x0[: len(block)] = np.divide(before, scales, out=np.zeros_like(scales), where=scales > 0)
            center = state.theta
            if before.any():  # the contribution of all other models, which need not be loaded
                center = put(span.mix(center, directions, jnp.asarray(-x0, scale.dtype)))
            epochs: list[dict] = []

            def told(epoch, x, center=center, directions=directions, epochs=epochs):
                if evaluate is not None:
                    epochs.append({"epoch": epoch} | evaluate(as_model(span.mix(center, directions, x), dtypes)))

            x, losses = solve(
                center,
                directions,
                jnp.asarray(x0, scale.dtype),
                held,
                jax.random.fold_in(key, 2**16 + number),
                constrain=None if extrapolate else _on_scaled(on_simplex(state.weights, block), scale, len(block)),
                told=told,
            )
            live = sum(each.nbytes for each in jax.live_arrays())
            if not np.isfinite(losses).all() or not bool(jnp.isfinite(x).all()):
                names = ", ".join(pool.names[k] for k in block)
                raise NonFiniteBlockError(
                    f"the loss was not finite in block {number} of {len(blocks)} (models {names}); the soup from before it "
                    "is in this error's `soup`. Try a lower learning rate or clip_norm",
                    Soup(as_model(state.theta, dtypes), state.weights, groups, state.history),
                )
            theta = put(span.mix(center, directions, x))
            change = np.asarray(x, np.float64)[: len(block)] * scales - before
            weights = moved(state.weights, origin_weights, block, change)
            record = {"block": number, "models": list(block), "losses": losses.tolist(), "accepted": True}
            if judged:
                was = state.history[-1]["after"] if state.history else loss_of(state.theta, held)
                now = loss_of(theta, held)
                record |= {"before": was, "after": now, "accepted": bool(accept(was, now))}
                if not record["accepted"]:
                    theta, weights, change, record["after"] = state.theta, state.weights, 0 * change, was
            alpha = state.alpha.copy()
            alpha[block] = before + change
            record |= {
                "epochs": epochs,
                "lowest": float(weights[:, moving].min()),
                "highest": float(weights[:, moving].max()),
                "sum_error": float(np.abs(weights.sum(0) - 1).max()),
                "live_bytes": live,
                "seconds": time.perf_counter() - began,
            }
            del directions, center
            state = resume.Progress(theta, weights, alpha, number + 1, [*state.history, record])
            if checkpoints is not None:
                resume.save(checkpoints, state, run)
            if callback is not None:
                callback(record)
    if not alive:
        warnings.warn("all models of the pool are the same; the soup is that model", stacklevel=2)
    params = as_model(state.theta, dtypes)
    params = params if stats is None else stats.finish(params)
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


def _blocks(order: Callable, key: PRNGKeyArray, count: int, size: int) -> list[list[int]]:
    found = [int(k) for k in order(key, count)]
    return [found[begin : begin + size] for begin in range(0, count, size)]


def _placed(mesh: Mesh | None, size: int) -> tuple[NamedSharding | None, int, Callable[[PyTree], PyTree]]:
    """Where the rows of a block lie, how many there must be, and how one model is put on all devices."""
    if mesh is None:
        return None, size, lambda tree: tree
    whole = NamedSharding(mesh, PartitionSpec())
    parts = mesh.shape[POOL] if POOL in mesh.axis_names else 1
    rows = NamedSharding(mesh, PartitionSpec(POOL if POOL in mesh.axis_names else None))
    return rows, -(-size // parts) * parts, lambda tree: jax.device_put(tree, whole)


def _on_scaled(constrain: Callable, scale: Any, rows: int) -> Callable:
    """A constraint on mixing weights as one on the coefficients of scaled directions."""
    alive, size = scale[:rows] > 0, jnp.where(scale[:rows] > 0, scale[:rows], 1)

    def on_x(x):
        y = constrain(x[:rows] * scale[:rows])
        return jnp.concatenate([jnp.where(alive, y / size, 0.0), x[rows:]]).astype(x.dtype)

    return on_x


def _stale(history: list[dict]) -> int:
    """Blocks since the held-out loss last fell."""
    count = 0
    for record in reversed(history):
        if record["after"] < record["before"]:
            break
        count += 1
    return count
