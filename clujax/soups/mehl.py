"""MEHL-Soup: mixing weights on the hyperplane Σ w = 1, learned block by block with b models in memory.

Li, Jiang, Liu, Huang, Kwok: Learning Scalable Model Soup on a Single GPU: An Efficient Subspace Training Strategy (ECCV
2024, arXiv 2407.03641). One coefficient per model and group: `groups.whole` is MEHL-Soup, `groups.leaf` MEHL-Soup+; a
block of all K models is HL-Soup(+).
"""

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from clujax.soups import adapters, resume, statistics
from clujax.soups.batches import Batches, repeatable
from clujax.soups.block import Found, Origin, Space, learn_block, placed
from clujax.soups.descent import Descent, LossFn, held_out_loss
from clujax.soups.directions import Normalize, dense, mean_of, unit
from clujax.soups.groups import Rule, leaf, make_groups
from clujax.soups.loading import Loader
from clujax.soups.pools import Pool, load_checked
from clujax.soups.reference import Reference, moved, running
from clujax.soups.soup import Soup, as_model, dtypes_of
from clujax.training.checkpoint import Checkpoints
from clujax.training.sharding import shard_batch


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
    blocks = _checked_blocks(count, block_size, sweeps, order, key, reference, extrapolate)
    size = len(blocks[0])
    groups = make_groups(pool.struct, groups, statistics.frozen(pool.struct, stats))
    held = repeatable(batches, len(blocks) * getattr(inner, "epochs", 2))
    held = held if mesh is None else [shard_batch(batch, mesh) for batch in held]
    closed = isinstance(pool, adapters.AdapterPool) and size == count
    span, dtypes = adapters.span(pool, groups) if closed else dense(groups), dtypes_of(pool)
    space = Space(pool, groups, span, closed, normalize, directions_dtype, dtypes, *placed(mesh, size))
    solve, loss_of = inner.prepare(span, loss_fn, len(held), dtypes), held_out_loss(loss_fn, dtypes)
    load = functools.partial(load_checked, pool, constants={})

    def point(weights, at_hand):
        """The soup of these weights; models that are not at hand are streamed."""
        chosen = [k for k in range(count) if np.any(weights[k])]
        models = (at_hand[k] if k in at_hand else load(k) for k in chosen)
        return space.put(mean_of(models, weights[chosen].astype(np.float32), groups, pool.struct))

    start = statistics.start_weights(groups, count, list(reference.first(count, blocks[0])), stats)
    moving = [number for number in range(len(groups.names)) if number not in groups.frozen]
    state = resume.Progress(None, start, np.zeros_like(start), 0, [])
    run = {"models": list(pool.names), "order": blocks, "moves": reference.moves, "groups": list(groups.names)}
    if checkpoints is not None:
        state = resume.restore(checkpoints, state, pool.struct, run)
        state = state._replace(theta=None if state.theta is None else space.put(state.theta))
    still, directed = None, state.block > 0

    with Loader([] if closed else blocks[state.block :], load, prefetch) as source:
        for number in range(state.block, len(blocks)):
            if patience is not None and _stale(state.history) >= patience:
                break
            block, began = blocks[number], time.perf_counter()
            models = [] if closed else source.take()
            if state.theta is None:
                state = state._replace(theta=point(start, dict(zip(block, models))))
            if reference.moves:
                origin = Origin(state.theta, state.weights, True)
            else:
                still = still or Origin(point(start, {}) if number else state.theta, start, False)
                origin = still
            now = jax.random.fold_in(key, 2**16 + number)
            found = learn_block(
                space, state, origin, block, models, held, now, solve,
                extrapolate=extrapolate, evaluate=evaluate, filled=source.ahead,
            )  # fmt: skip
            if not found.finite:
                names = ", ".join(pool.names[k] for k in block)
                raise NonFiniteBlockError(
                    f"the loss was not finite in block {number} of {len(blocks)} (models {names}); the soup from before it "
                    "is in this error's `soup`. Try a lower learning rate or clip_norm",
                    Soup(as_model(state.theta, dtypes), state.weights, groups, state.history),
                )
            record = {"block": number, "models": list(block), "losses": found.losses.tolist(), "accepted": True}
            if accept is not always or patience is not None:
                before = state.history[-1]["after"] if state.history else loss_of(state.theta, held)
                after = loss_of(found.theta, held)
                kept = bool(accept(before, after))
                record |= {"before": before, "after": after if kept else before, "accepted": kept}
            state = _stepped(state, origin, block, found) if record["accepted"] else state
            directed = directed or found.directed
            record |= {
                "epochs": found.epochs,
                "lowest": float(state.weights[:, moving].min()),
                "highest": float(state.weights[:, moving].max()),
                "sum_error": float(np.abs(state.weights.sum(0) - 1).max()),
                "live_bytes": found.live_bytes,
                "seconds": time.perf_counter() - began,
            }
            state = state._replace(block=number + 1, history=[*state.history, record])
            if checkpoints is not None:
                resume.save(checkpoints, state, run)
            if callback is not None:
                callback(record)
    if not directed:
        warnings.warn("all models of the pool are the same; the soup is that model", stacklevel=2)
    params = as_model(state.theta, dtypes)
    params = params if stats is None else stats.finish(params)
    state.history[-1]["total_seconds"] = time.perf_counter() - begin
    return Soup(params, state.weights, groups, state.history)


def _checked_blocks(
    count: int,
    block_size: int | None,
    sweeps: int,
    order: Callable[[PRNGKeyArray, int], np.ndarray],
    key: PRNGKeyArray,
    reference: Reference,
    extrapolate: bool,
) -> list[list[int]]:
    """The models of every block of all sweeps; refuses what cannot be carried out."""
    size = check_block(count, block_size)
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; expected at least 1.")
    if not extrapolate and not reference.moves:
        raise ValueError("extrapolate=False needs a reference that moves with the soup: running or running_from_mean.")
    blocks = []
    for sweep in range(sweeps):
        found = [int(k) for k in order(jax.random.fold_in(key, sweep), count)]
        blocks += [found[begin : begin + size] for begin in range(0, count, size)]
    if len(blocks[0]) == 1 and reference is running:
        raise ValueError(
            "block_size is 1: under `running` the first soup would be one model, without a direction to move along. "
            "Use block_size of at least 2, or reference=running_from_mean or pool_mean."
        )
    return blocks


def _stepped(state: resume.Progress, origin: Origin, block: Sequence[int], found: Found) -> resume.Progress:
    """The state after a block that is kept."""
    alpha = state.alpha.copy()
    alpha[block] = found.before + found.change
    weights = moved(state.weights, origin.weights, block, found.change)
    return state._replace(theta=found.theta, weights=weights, alpha=alpha)


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


def _stale(history: list[dict]) -> int:
    """Blocks since the held-out loss last fell."""
    count = 0
    for record in reversed(history):
        if record["after"] < record["before"]:
            break
        count += 1
    return count
