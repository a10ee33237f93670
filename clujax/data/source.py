"""What a loaded data set is, and where its rows came from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from clujax.data.rows import choose


class Source(NamedTuple):
    """Where rows came from, for the record of a run.

    Attributes:
      kind: "package", "archive", "idx", "npz", "npy", "tfds", "folder" or "fallback:<kind>".
      path: package or file name, without the machine's directories.
      version: of the package or prepared set, "" when there is none.
      sha256: of the decoded content (decompressed idx, csv, text, or arrays of rows and labels), or of an npz file as it is,
        or of a folder of npy files that are not read whole: of each one's size and of a sample of its bytes, `files.SAMPLE`
        blocks of `files.BLOCK` bytes spread evenly from its header to its end (all of it when it is no larger).
      n: rows, training and test together.
    """

    kind: str
    path: str
    version: str
    sha256: str
    n: int


class Dataset(NamedTuple):
    """Training and test rows as dicts of columns `x`, `y` (int32), `index` (int64, the raw row), and class names."""

    train: Mapping[str, Any]
    test: Mapping[str, Any]
    classes: tuple[str, ...]
    source: Source


def take_rows(columns: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The chosen rows of every column: copies, and views (`Rows`) of columns that lie on disk."""
    return {name: choose(column, rows) for name, column in columns.items()}
