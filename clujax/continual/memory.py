"""Rehearsal memory: a tree of arrays of fixed shapes, changed by pure functions and kept in checkpoints.

Rows are offered (`reservoir`, `balanced`), removed for good (`purge`) and drawn for replay (`sample`). Nothing is compiled
anew along a stream, however many rows come and go.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, PyTree

from clujax.errors import RequestError


class Memory(NamedTuple):
    """Rows kept for replay, and what the policies must know of the rows that were offered.

    M is the capacity, or 1 where that is 0: checkpoints hold no arrays of size 0. A row's number is its place in the
    training columns; empty slots hold −1 there and zeros elsewhere.

    Attributes:
      rows, x, y, valid: the rows, and whether a slot holds one.
      logits: the network's outputs when a row was stored, zeros from column `width` on; None where none are kept.
      width: how many columns of `logits` the network had then; None without logits.
      capacity: how many rows may be held.
      offered: the label that each training row was offered with; −1 for rows never offered, or removed.
      seen: how many rows of each class are offered and not removed.
      owed: removed rows that no new row has made up for, [those that were held, those that were not] (`reservoir`).
      full: classes that new rows do not enlarge (`balanced`).
    """

    rows: Int[Array, " M"]
    x: Array | None
    y: Integer[Array, " M"]
    valid: Bool[Array, " M"]
    logits: Float[Array, "M C"] | None
    width: Int[Array, " M"] | None
    capacity: Int[Array, ""]
    offered: Int[Array, " N"]
    seen: Int[Array, " C"]
    owed: Int[Array, " 2"]
    full: Bool[Array, " C"]


def empty(
    capacity: int,
    columns: Mapping[str, Any],
    num_classes: int,
    *,
    keep_logits: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> Memory:
    """A memory that holds nothing yet.

    Args:
      capacity: most rows held; 0 for methods without replay.
      columns: training columns `x`, `y`; row shape and dtypes are theirs.
      num_classes: C, the outputs of the network when its head has grown to the end.
      keep_logits: make room for the network's outputs.
      sharding: where to lay it, on a mesh replicated.

    Raises:
      RequestError: a negative capacity.

    Example:
      >>> columns = {"x": np.arange(20, dtype=np.uint8)[:, None], "y": np.arange(20) % 2}
      >>> memory = insert_rows(empty(4, columns, 2), columns, range(10), jax.random.key(0))
      >>> memory = purge(memory, columns["y"] == 0)
      >>> batch = sample(memory, jax.random.key(1), 8)
      >>> batch["x"].dtype.name, set(batch["y"].tolist())
      ('uint8', {1})
    """
    if capacity < 0:
        raise RequestError(f"capacity is {capacity}; expected 0 (no memory) or more.")
    slots, x, y = max(capacity, 1), columns["x"], columns["y"]
    memory = Memory(
        rows=jnp.full(slots, -1, jnp.int32),
        x=jnp.zeros((slots, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)),
        y=jnp.zeros(slots, jax.dtypes.canonicalize_dtype(y.dtype)),
        valid=jnp.zeros(slots, bool),
        logits=jnp.zeros((slots, num_classes), jnp.float32) if keep_logits else None,
        width=jnp.zeros(slots, jnp.int32) if keep_logits else None,
        capacity=jnp.int32(capacity),
        offered=jnp.full(len(y), -1, jnp.int32),
        seen=jnp.zeros(num_classes, jnp.int32),
        owed=jnp.zeros(2, jnp.int32),
        full=jnp.zeros(num_classes, bool),
    )
    return memory if sharding is None else jax.device_put(memory, sharding)


@jax.jit
def purge(memory: Memory, gone: Bool[Array | np.ndarray, " N"]) -> Memory:
    """Remove rows: their slots are overwritten, and they count as never offered. O(M + N).

    Rows that the memory does not hold, or was never offered, may be among them.
    """
    if gone.shape != memory.offered.shape:
        raise ValueError(f"gone has shape {gone.shape}; expected one flag for each of {len(memory.offered)} rows.")
    out = memory.valid & gone[memory.rows]
    removed = gone & (memory.offered >= 0)
    offered = jnp.where(gone, -1, memory.offered)
    classes = len(memory.seen)
    seen = jnp.zeros_like(memory.seen).at[jnp.where(offered < 0, classes, offered)].add(1, mode="drop")
    held = _count(out)
    owed = memory.owed + jnp.stack([held, _count(removed) - held])

    def blank(column, with_=0):
        return None if column is None else jnp.where(_beside(out, column), jnp.asarray(with_, column.dtype), column)

    return memory._replace(
        rows=blank(memory.rows, -1),
        x=blank(memory.x),
        y=blank(memory.y),
        valid=memory.valid & ~out,
        logits=blank(memory.logits),
        width=blank(memory.width),
        offered=offered,
        seen=seen,
        owed=jnp.where(jnp.sum(seen) > 0, owed, 0),  # with no row left, a sample of none is where we began
        full=memory.full & ~jnp.any(out),
    )


@jax.jit
def reservoir(
    memory: Memory, batch: Mapping[str, Any], keep: Bool[Array | np.ndarray, " B"], key: PRNGKeyArray
) -> Memory:
    """Offer rows so that those held are a uniform sample of all rows offered and not removed, purges included.

    Random pairing: a new row makes up for a removed one, chosen at random, and goes into memory if that one was held;
    once all are made up for, it is reservoir sampling. (To put new rows into every vacant slot would favour them.) Until
    then slots stay vacant, so a memory is smaller after a purge.

    Args:
      memory: to change.
      batch: `row`, distinct numbers, `y`, `x` and, where the memory keeps them, `logits` of at most C columns.
      keep: False for padding. Rows offered before and not removed are passed over as well.
      key: a row's draw follows from this and its number, not from how rows are cut into batches.

    Source: Gemulla, Lehner & Haas 2006. Cost: O(M + B).
    """
    fresh, row, label, keys = _offer(memory, batch, keep, key)
    before = jnp.cumsum(fresh, dtype=jnp.int32) - fresh
    owed = memory.owed[0] + memory.owed[1]
    unpaired = jnp.maximum(owed - before, 0)
    paired = unpaired > 0
    bound = jnp.where(paired, unpaired, _count(memory.seen) + before + 1)
    draws = jax.vmap(lambda key, bound: jax.random.randint(key, (), 0, bound))(keys, bound)

    def step(carry, item):
        filled, held = carry
        fresh, paired, draw = item
        joins = fresh & jnp.where(paired, draw < held, filled < memory.capacity)
        return (filled + joins, held - (paired & joins)), joins

    (_, held), joins = jax.lax.scan(step, (size(memory), memory.owed[0]), (fresh, paired, draws))
    vacant = _nth(~memory.valid, jnp.cumsum(joins) - 1)
    # A row that neither joins nor makes up for another meets a full memory, every slot of which is in use.
    replaces = fresh & ~joins & ~paired & (draws < memory.capacity)
    slot = jnp.where(joins, vacant, jnp.where(replaces, draws, len(memory.rows)))
    owed = jnp.maximum(owed - _count(fresh), 0)
    return _put(memory, batch, slot, fresh, row, label)._replace(owed=jnp.stack([held, owed - held]))


@jax.jit
def balanced(
    memory: Memory, batch: Mapping[str, Any], keep: Bool[Array | np.ndarray, " B"], key: PRNGKeyArray
) -> Memory:
    """Offer rows so that classes are held in equal numbers, as far as each has rows.

    A row takes a vacant slot; in a full memory it takes that of a random row of the largest class, or, if its own class
    was ever the largest of a full memory, of a random row of its own class with probability m/n (held, offered). Rows of
    one class are thus equally likely to be held, until a purge that hits the memory: all classes may then grow again to
    equal shares, by new rows alone, which are favoured for it.

    Args: as for `reservoir`; labels are below C.
    Source: Chrysakis & Moens 2020, with vacant slots after a purge. Cost: O(M + B) and O(M) integers per stored row.
    """
    fresh, row, label, keys = _offer(memory, batch, keep, key)
    slots, classes = len(memory.rows), len(memory.seen)

    def step(carry, item):
        labels, held, offered, full = carry
        fresh, label, key = item
        offered = offered.at[label].add(fresh)
        room, largest = jnp.sum(held) < memory.capacity, jnp.argmax(held)
        full = full | (~room & (held == held[largest]))
        loser = jnp.where(full[label], label, largest)
        draw = jax.random.randint(key, (), 0, jnp.where(full[label], offered[label], held[largest]))
        stored = fresh & (room | (draw < held[loser]))

        choose = lambda: _nth(labels == jnp.where(room, -1, loser), jnp.where(room, 0, draw))
        slot = jax.lax.cond(stored, choose, lambda: jnp.int32(slots))
        held = held.at[jnp.where(stored & ~room, loser, classes)].add(-1, mode="drop").at[label].add(stored)
        return (labels.at[slot].set(label, mode="drop"), held, offered, full), slot

    labels = jnp.where(memory.valid, memory.y.astype(jnp.int32), -1)
    held = jnp.zeros_like(memory.seen).at[jnp.where(memory.valid, labels, classes)].add(1, mode="drop")
    (*_, full), slot = jax.lax.scan(step, (labels, held, memory.seen, memory.full), (fresh, label, keys))
    return _put(memory, batch, slot, fresh, row, label)._replace(full=full)


def insert_rows(
    memory: Memory,
    columns: Mapping[str, Any],
    rows: Any,
    key: PRNGKeyArray,
    *,
    policy: Callable = reservoir,
    apply: Callable | None = None,
    params: PyTree = None,
    stats: PyTree = None,
    chunk: int = 256,
) -> Memory:
    """Offer rows of the training columns, in the order given.

    Which rows are held is settled on numbers and labels first; inputs and logits are then fetched for those alone, so the
    network sees no more than M rows however many are offered.

    Args:
      memory: left as it is.
      columns: training columns that the memory was made for.
      rows: distinct row numbers, any count. Rows offered before and not removed are passed over.
      key: of the policy's draws.
      policy: `reservoir` or `balanced`, or any compiled `policy(memory, batch, keep, key) -> memory`, called without
        inputs and logits.
      apply: `apply(params, stats, x, train=False) -> (logits, stats)`, for a memory that keeps logits and no other.
      params, stats: the network.
      chunk: rows per call of the policy and of the network; it changes no result.

    Raises:
      RequestError: rows that do not exist or stand more than once, or labels that the memory was not made for.
      ValueError: columns of another length, logits missing, or wider than the memory's.
    """
    numbers, labels = _check(memory, columns, rows, apply)
    ledger = memory._replace(x=None, logits=None, width=None)
    for start in range(0, len(numbers), chunk):
        row = _padded(numbers[start : start + chunk], chunk)
        ledger = policy(ledger, {"row": row, "y": labels[row]}, row >= 0, key)
    changed, x = _fetch(memory.rows, ledger.rows, memory.x, columns["x"])
    logits, width = memory.logits, memory.width
    if apply is not None:
        slots, size = np.flatnonzero(np.asarray(changed)), min(chunk, len(memory.rows))
        for start in range(0, len(slots), size):
            slot = _padded(slots[start : start + size], size)
            found = _outputs(apply, params, stats, x, slot)
            if found.shape[1] > logits.shape[1]:
                raise ValueError(
                    f"the network has {found.shape[1]} outputs but the memory keeps logits of {logits.shape[1]}; "
                    "make it with num_classes of the grown head."
                )
            if logits.committed:  # XLA lays logits of a sharded network out as it likes
                found = jax.device_put(found, logits.sharding)
            logits, width = _store(logits, width, found, slot)
    return ledger._replace(x=x, logits=logits, width=width)


def size(memory: Memory) -> Int[Array, ""]:
    """Number of rows held."""
    return _count(memory.valid)


def check_replay(memory: Memory) -> None:
    """Refuse to replay from a memory that holds nothing.

    Raises:
      RequestError: capacity 0, or no row held.
    """
    if int(memory.capacity) == 0:
        raise RequestError("memory has capacity 0, and replay needs capacity >= 1; raise it, or replay nothing.")
    if not np.any(memory.valid):
        raise RequestError(
            f"memory is empty (0 of {int(memory.capacity)} rows): nothing was offered to it, or all of it was removed. "
            "Replay needs a row at least."
        )


def sample(memory: Memory, key: PRNGKeyArray, batch_size: int) -> dict[str, jax.Array]:
    """Draw rows uniformly and with replacement: `x`, `y`, `row`, and `logits`, `width` where they are kept. O(M + B).

    Raises:
      RequestError: the memory is empty. Inside a compiled function nothing can be raised (call `check_replay` before);
        labels are then no label of any class, and cross-entropy with them is NaN.
    """
    if not isinstance(memory.valid, jax.core.Tracer):
        check_replay(memory)
    return _sample(memory, key, batch_size)


def draws(memory: Memory, batch_size: int, key: PRNGKeyArray) -> Callable[[int], dict[str, jax.Array]]:
    """`batch_at(step)`: what `sample` draws under fold_in(key, step), checked once and in one program a step.

    Raises:
      RequestError: the memory is empty.
    """
    check_replay(memory)
    return lambda step: _draw(memory, key, step, batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _draw(memory, key, step, batch_size):
    return _sample(memory, jax.random.fold_in(key, step), batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _sample(memory, key, batch_size):
    held = size(memory)
    slot = _nth(memory.valid, jax.random.randint(key, (batch_size,), 0, held))
    columns = {"x": memory.x, "y": memory.y, "row": memory.rows, "logits": memory.logits, "width": memory.width}
    batch = {name: column[slot] for name, column in columns.items() if column is not None}
    return batch | {"y": jnp.where(held > 0, batch["y"], jnp.iinfo(memory.y.dtype).max)}


def _check(memory, columns, rows, apply):
    """Row numbers and all labels on the host."""
    numbers, labels = np.asarray(rows), np.asarray(columns["y"])
    count, classes = len(memory.offered), len(memory.seen)
    if len(labels) != count:
        raise ValueError(f"columns have {len(labels)} rows but the memory was made for {count}.")
    if (apply is None) != (memory.logits is None):
        asked = "keeps logits but apply is missing" if apply is None else "keeps no logits but apply is given"
        raise ValueError(f"the memory {asked}: empty(keep_logits=True) and apply, params, stats go together.")
    if numbers.size == 0:
        return np.zeros(0, np.int32), labels
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise RequestError(f"rows have shape {numbers.shape}, dtype {numbers.dtype}; expected a list of row numbers.")
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if wrong.size:
        raise RequestError(f"rows {wrong[:10].tolist()} do not exist; rows are 0 … {count - 1}.")
    kinds, counts = np.unique(numbers, return_counts=True)
    if len(kinds) < len(numbers):
        raise RequestError(f"rows {kinds[counts > 1][:10].tolist()} stand more than once.")
    wrong = numbers[(labels[numbers] < 0) | (labels[numbers] >= classes)]
    if wrong.size:
        raise RequestError(f"rows {wrong[:10].tolist()} have labels outside [0, {classes}), the memory's classes.")
    return numbers.astype(np.int32), labels


def _padded(numbers, length):
    return np.pad(numbers, (0, length - len(numbers)), constant_values=-1).astype(np.int32)


def _offer(memory, batch, keep, key):
    """Which rows of a batch count, their numbers, labels and keys."""
    row, label = (jnp.asarray(batch[name]).astype(jnp.int32) for name in ("row", "y"))
    known = memory.offered.at[row].get(mode="clip") >= 0
    keys = jax.vmap(partial(jax.random.fold_in, key))(row)
    return keep & (row >= 0) & (row < len(memory.offered)) & ~known, row, label, keys


def _count(flags):
    return jnp.sum(flags, dtype=jnp.int32)


def _nth(flags, n):
    """Place of the n-th True, from 0."""
    return jnp.searchsorted(jnp.cumsum(flags, dtype=jnp.int32), n + 1).astype(jnp.int32)


def _beside(flags, column):
    """Flags of slots, to choose with in a column `[M, ...]`."""
    return flags.reshape(-1, *[1] * (column.ndim - 1))


def _put(memory, batch, slot, fresh, row, label):
    """Write each row into its slot (the last row to get a slot has it), and count what was offered."""
    source = jnp.full(len(memory.rows), -1).at[slot].max(jnp.arange(len(slot)), mode="drop")
    new = {"rows": row, "y": jnp.asarray(batch["y"]), "valid": jnp.ones(len(slot), bool)}
    if memory.x is not None:
        new["x"] = jnp.asarray(batch["x"])
    if memory.logits is not None:
        new["logits"] = _widened(batch["logits"], memory.logits)
        new["width"] = jnp.full(len(slot), batch["logits"].shape[1])

    def take(name, column):
        old = getattr(memory, name)
        return jnp.where(_beside(source >= 0, old), column[jnp.maximum(source, 0)].astype(old.dtype), old)

    place = jnp.where(fresh, row, len(memory.offered))
    return memory._replace(
        **{name: take(name, column) for name, column in new.items()},
        offered=memory.offered.at[place].set(label, mode="drop"),
        seen=memory.seen.at[jnp.where(fresh, label, len(memory.seen))].add(1, mode="drop"),
    )


def _widened(logits, like):
    return jnp.pad(logits, ((0, 0), (0, like.shape[1] - logits.shape[1])))


@jax.jit
def _fetch(before, after, x, column):
    changed = before != after
    return changed, jnp.where(_beside(changed, x), jnp.take(column, after, axis=0, mode="clip"), x)


@partial(jax.jit, static_argnums=0)
def _outputs(apply, params, stats, x, slot):
    return apply(params, stats, jnp.take(x, slot, axis=0, mode="clip"), train=False)[0]


@jax.jit
def _store(logits, width, found, slot):
    place = jnp.where(slot < 0, len(logits), slot)
    widths = width.at[place].set(found.shape[1], mode="drop")
    return logits.at[place].set(_widened(found, logits), mode="drop"), widths
