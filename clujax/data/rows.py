"""Chosen rows of a column that stays on disk."""

import math
from typing import Any

import numpy as np


class Rows:
    """A view of some rows of a memory map: nothing is read before it is asked for.

    `[i]`, slices, masks and lists of rows give arrays in memory, of those rows alone; `chosen` gives a view again, and
    `np.asarray` reads all of it.

    Attributes:
      column: what the rows are of, with one leading row axis.
      rows: `[n]` their numbers in it.
    """

    def __init__(self, column: Any, rows: np.ndarray):
        self.column, self.rows = column, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.column.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.column.dtype

    @property
    def ndim(self) -> int:
        return self.column.ndim

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first is None or first is Ellipsis:
            return np.asarray(self)[index]
        rows = self.rows[first]
        if not rest:
            return np.asarray(self.column[rows])
        if all(isinstance(each, int | slice) for each in rest):  # of each row what is asked for is all that is read
            return np.asarray(self.column[(rows, *rest)])
        return np.asarray(self.column[rows])[(slice(None),) * np.ndim(rows) + tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows that lie on disk cannot be had without a copy")
        return np.asarray(self.column[self.rows], dtype)

    def chosen(self, rows: Any) -> "Rows":
        """Some of these rows, still on disk."""
        return Rows(self.column, self.rows[rows])


def on_disk(column: Any) -> bool:
    """Whether a column lies on disk and is read when asked for."""
    return isinstance(column, np.memmap | Rows)


def spread(column: Any, most: int = 10_000) -> np.ndarray:
    """A column in memory: all of it, or of one on disk at most so many rows, evenly spread."""
    if not on_disk(column) or len(column) <= most:
        return np.asarray(column)
    return np.asarray(column[np.linspace(0, len(column) - 1, most).astype(int)])


def choose(column: Any, rows: Any) -> Any:
    """The chosen rows of a column: a copy of those in memory, a view of those on disk."""
    if isinstance(column, Rows):
        return column.chosen(rows)
    return Rows(column, np.arange(len(column))[rows]) if on_disk(column) else column[rows]
