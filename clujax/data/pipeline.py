"""Batches of data too large for the device: a grain pipeline, sharded by process, whose place can be saved."""

from collections.abc import Mapping
from typing import Any

import grain.python as grain
import jax
import numpy as np
from absl import flags


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
    """An iterator of batches, shuffled anew each epoch; every process gets its own rows, and as many as any other.

    Rows of an epoch that do not divide among the processes are left out of it (others of them each epoch), so that all
    processes make the same number of steps: one step more on one host would wait for the others without end.

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
    own = len(source) // count
    if batch_size < 1 or own == 0 or (num_epochs is not None and own * num_epochs < batch_size):
        raise ValueError(
            f"batch_size is {batch_size}, but {num_epochs} epochs of a process's {own} rows fill no batch."
        )
    rows = grain.MapDataset.source(source).seed(seed).shuffle()[index : own * count : count].repeat(num_epochs)
    batches = rows.batch(batch_size, drop_remainder=True, batch_fn=_stack).to_iter_dataset()
    if num_workers:
        # Grain's workers look up absl flags, which nothing has parsed in a program that is not started by absl's app.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(batches)


def _stack(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
