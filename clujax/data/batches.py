"""Batches of data that fit in device memory, as pure functions of the step."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from clujax.data.rows import on_disk


def resident(
    arrays: Mapping[str, Any], batch_size: int, key: PRNGKeyArray, *, sharding: jax.sharding.Sharding | None = None
) -> Callable[[SupportsIndex], dict[str, jax.Array]]:
    """`batch_at(step)`: the step's batch, the same one after any restart and on any number of devices.

    Batches are cut from an endless stream of permutations of all rows, one an epoch, so every batch has `batch_size` rows,
    none is dropped, and a set smaller than a batch works too.

    Args:
      arrays: columns with one leading row axis; they are put on the device once.
      batch_size: rows in a batch.
      key: epoch e is shuffled by fold_in(key, e).
      sharding: where to lay a batch, None for the default device.

    Raises:
      ValueError: columns of different lengths, no rows, or batch_size below 1.
    """
    indices_at = index_stream(num_rows(arrays, batch_size), batch_size, key)
    replicated = None
    if isinstance(sharding, jax.sharding.NamedSharding):
        replicated = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    held = {name: _held(column, replicated) for name, column in arrays.items()}

    def batch_at(step: SupportsIndex) -> dict[str, jax.Array]:
        return gather(held, indices_at(step), sharding=sharding)

    return batch_at


def index_stream(rows: int, batch_size: int, key: PRNGKeyArray) -> Callable[[SupportsIndex], np.ndarray]:
    """`indices_at(step)`: the rows of the step's batch, cut from an endless stream of permutations of all rows.

    Threads may share it; every process finds the same rows.
    """
    # On this process's own device, wherever the key lies: threads of processes do not run in step.
    key = jax.random.wrap_key_data(np.asarray(jax.random.key_data(key)), impl=jax.random.key_impl(key))

    @lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        return np.asarray(_order(key, epoch, rows))

    def indices_at(step: SupportsIndex) -> np.ndarray:
        first = int(step) * batch_size  # a step taken from a state is an int32, whose product would wrap
        positions = np.arange(first, first + batch_size)
        epochs = range(first // rows, (first + batch_size - 1) // rows + 1)
        return np.concatenate([order(epoch)[positions[positions // rows == epoch] % rows] for epoch in epochs])

    return indices_at


def gather(
    columns: Mapping[str, Any], indices: np.ndarray, *, sharding: jax.sharding.Sharding | None = None
) -> dict[str, jax.Array]:
    """Rows of resident columns, in one compiled program for each number of rows, laid out as asked."""
    return _taker(sharding)(columns, indices)


def _held(column, replicated):
    """A column on the device, or on every device of a mesh; each process of a larger one fills its own."""
    if replicated is None or replicated.is_fully_addressable:
        return jax.device_put(jnp.asarray(column), replicated)
    host = np.asarray(column)
    host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
    return jax.make_array_from_callback(host.shape, replicated, lambda index: host[index])


@partial(jax.jit, static_argnames="rows")
def _order(key, epoch, rows):
    # One program: taken op by op, a permutation costs as much as a training step of a small network.
    return jax.random.permutation(jax.random.fold_in(key, epoch), rows)


@cache
def _taker(sharding):
    """Compiled `take(columns, indices)` laid out as asked, on meshes of automatic and of explicit axes alike."""

    def take(columns, indices):
        return {name: jnp.take(column, indices, axis=0) for name, column in columns.items()}

    return jax.jit(take, out_shardings=sharding)


def num_rows(arrays: Mapping[str, Any], batch_size: int) -> int:
    """Rows of the columns; refuses what makes no batch.

    Raises:
      ValueError: columns of different lengths, no rows, or batch_size below 1.
    """
    sizes = {name: len(column) for name, column in arrays.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"arrays must be columns of one length of at least 1; got {sizes}.")
    if not batch_size >= 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    return next(iter(sizes.values()))


def padded(arrays: Mapping[str, Any], batch_size: int) -> Iterator[dict[str, Any]]:
    """All rows once, in order, in batches of one shape; `weight` is 1 for a row and 0 for padding.

    Raises:
      ValueError: columns of different lengths, no rows, or batch_size below 1.
    """
    rows = num_rows(arrays, batch_size)
    for start in range(0, rows, batch_size):
        count = min(batch_size, rows - start)
        indices = np.minimum(np.arange(start, start + batch_size), rows - 1)
        batch = {
            name: np.asarray(column[indices] if on_disk(column) else np.asarray(column)[indices])
            for name, column in arrays.items()
        }
        yield batch | {"weight": (np.arange(batch_size) < count).astype(np.float32)}
