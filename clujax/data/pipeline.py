"""Batches of data too large for the device: a grain pipeline, sharded by process, whose place can be saved."""

from collections.abc import Mapping
from typing import Any

import grain.python as grain
import jax
import numpy as np


class Columns:
    """A random-access source of rows over columns (arrays or memory maps), every row a dict."""

    def __init__(self, columns: Mapping[str, Any]):
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: column[row] for name, column in self.columns.items()}


def pipeline(
    source: Any,
    batch_size: int,
    *,
    seed: int,
    num_epochs: int | None = None,
    num_workers: int = 0,
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.DatasetIterator:
    """An iterator of batches, shuffled anew each epoch; every process gets its own rows.

    Args:
      source: anything with `len` and `[i]` giving a dict (tfds `as_data_source`, `Columns`).
      batch_size: rows in this process's batch.
      seed: of the shuffles.
      num_epochs: None repeats without end; else rows that do not fill a last batch are left out.
      num_workers: reader processes; 0 reads in this one.
      process_index, process_count: which share of the rows; jax's by default.

    Returns:
      A grain iterator of dicts of `[batch_size, ...]` arrays, with `get_state` and `set_state` to save its place.

    Raises:
      ValueError: not even one batch can be filled.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    rows = grain.MapDataset.source(source).seed(seed).shuffle()[index::count].repeat(num_epochs)
    if batch_size < 1 or not len(rows) >= batch_size:
        own = len(range(index, len(source), count))
        raise ValueError(
            f"batch_size is {batch_size}, but {num_epochs} epochs of this process's {own} rows fill no batch."
        )
    batches = rows.batch(batch_size, drop_remainder=True, batch_fn=_stack).to_iter_dataset()
    if num_workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(batches)


def _stack(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
