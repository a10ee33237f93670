"""Batches of data that do not fit in device memory: read by grain in the background, as pure functions of the step."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from clujax.data.batches import index_stream, num_rows


def feed(
    source: Any,
    batch_size: int,
    key: PRNGKeyArray,
    *,
    sharding: jax.sharding.Sharding | None = None,
    prefetch: int = 4,
) -> Callable[[SupportsIndex], dict[str, jax.Array]]:
    """`batch_at(step)`: the batches of `resident(columns, batch_size, key)`, of rows that stay where they are.

    The step is the whole position, so a restart on other devices or processes goes on with the very batches that are
    due. A process reads only the rows that its devices hold. Batches after the one asked for are read meanwhile, each by
    a thread; a jump of the step starts reading there.

    Args:
      source: columns with one leading row axis (arrays, memory maps, `Rows`), or anything with `len` whose `[i]` gives
        row i as a dict (`PreparedRows`, tfds `as_data_source`).
      batch_size: rows in a global batch.
      key: epoch e is shuffled by fold_in(key, e).
      sharding: where to lay a batch, None for the default device.
      prefetch: batches read ahead, which is also the number of threads; 0 reads when asked.

    Returns:
      The function. `batch_at.close()` ends its threads at once; else they end with it.

    Raises:
      ValueError: columns of different lengths, no rows, batch_size below 1, or rows that the sharding cannot split.

    Cost: the order of an epoch takes 4 bytes a row, in this process and on its device.
    """
    columns = isinstance(source, Mapping)
    rows = num_rows(source if columns else {"rows": source}, batch_size)
    indices_at = index_stream(rows, batch_size, key)
    parts = _parts(sharding, batch_size)

    def read(step: int) -> list[dict[str, np.ndarray]]:
        indices = indices_at(step)
        return [_take(source, indices[start:stop], columns) for start, stop in parts]

    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    reader = iter(grain.MapDataset.range(sys.maxsize).map(read).to_iter_dataset(options))
    due = 0

    def batch_at(step: SupportsIndex) -> dict[str, jax.Array]:
        nonlocal due
        if int(step) != due:
            reader.set_state({"next_index": int(step)})
        due = int(step)
        found = next(reader)
        due += 1
        return {
            name: _lay(dict(zip(parts, (part[name] for part in found), strict=True)), batch_size, sharding)
            for name in found[0]
        }

    batch_at.close = reader.close
    return batch_at


def _parts(sharding: jax.sharding.Sharding | None, batch_size: int) -> list[tuple[int, int]]:
    """The ranges of a batch's rows that devices of this process hold, each once."""
    if sharding is None:
        return [(0, batch_size)]
    if isinstance(sharding, jax.sharding.NamedSharding):  # columns may have more axes than rows
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[:1]))
    places = sharding.addressable_devices_indices_map((batch_size,))
    return sorted({rows.indices(batch_size)[:2] for (rows,) in places.values()})


def _take(source: Any, indices: np.ndarray, columns: bool) -> dict[str, np.ndarray]:
    if columns:
        found = {name: column[indices] for name, column in source.items()}
    else:
        read = [source[int(index)] for index in indices]
        found = {name: np.stack([row[name] for row in read]) for name in read[0]}
    # As jnp.asarray would make them: 64 bits become 32 unless jax is told to keep them.
    return {name: np.asarray(part, jax.dtypes.canonicalize_dtype(part.dtype)) for name, part in found.items()}


def _lay(parts: dict[tuple[int, int], np.ndarray], batch_size: int, sharding: Any) -> jax.Array:
    if sharding is None:
        return jnp.asarray(parts[0, batch_size])
    shape = (batch_size, *next(iter(parts.values())).shape[1:])

    def held(place: tuple[slice, ...]) -> np.ndarray:
        return parts[place[0].indices(batch_size)[:2]][:, *place[1:]]

    return jax.make_array_from_callback(shape, sharding, held)
