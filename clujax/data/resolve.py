"""Find a data set: the caller's path, prepared sets, CLUJAX_DATA_DIR, installed packages, the system. Never a substitute."""

import difflib
import logging
import os
import pathlib
import pickle
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clujax.data import files, packages, prepared
from clujax.data.source import Dataset, Source
from clujax.errors import DataNotFoundError

FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Look(NamedTuple):
    """What a set looks like, for plans that are made where it is not: shape and dtype of a row, classes, training rows."""

    shape: tuple[int, ...]
    num_classes: int
    train_rows: int
    dtype: str = "uint8"


class Known(NamedTuple):
    """How one named set is recognised: class names, idx hashes, a reader of a pip package, how to get it, how it looks."""

    classes: tuple[str, ...] | None = None
    idx: dict[str, str] | None = None
    package: Callable | None = None
    pip: str = '"clujax[data]"'
    apt: str | None = None
    look: Look | None = None


DIGIT_CLASSES = tuple(map(str, range(10)))
KNOWN = {
    "digits": Known(DIGIT_CLASSES, package=packages.digits),
    "mnist": Known(DIGIT_CLASSES, files.MNIST, packages.mnist_5k, look=Look((28, 28), 10, 60_000)),
    "fashion_mnist": Known(
        FASHION_CLASSES, files.FASHION_MNIST, apt="dataset-fashion-mnist", look=Look((28, 28), 10, 60_000)
    ),
    "emoji": Known(packages.EMOJI_CATEGORIES, package=packages.emoji),
    "animal_mnist": Known(packages.ANIMALS, package=packages.animal_mnist, pip="--no-deps animal-mnist"),
    "cifar10": Known(CIFAR10_CLASSES, look=Look((32, 32, 3), 10, 50_000)),
    "cifar100": Known(look=Look((32, 32, 3), 100, 50_000)),
    "svhn": Known(DIGIT_CLASSES, look=Look((32, 32, 3), 10, 73_257)),
    "tiny_imagenet": Known(look=Look((64, 64, 3), 200, 100_000)),
    "imagenet": Known(look=Look((224, 224, 3), 1000, 1_281_167)),
}
SYSTEM = pathlib.Path("/usr/share/datasets")
ARCHIVES = (".deb", ".tgz", ".tar", ".tar.gz", ".tar.xz")
MOST_CLASSES = 2**20  # a larger label is a row number or a time, not a class


def load(
    name: str,
    *,
    path: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    fallback: str | None = None,
) -> Dataset:
    """Load a data set by name, with the record of where its rows came from.

    Looked at in order: `path`; sets prepared by tensorflow-datasets under `data_dir`, `$TFDS_DATA_DIR` or
    `~/tensorflow_datasets`; `$CLUJAX_DATA_DIR/<name>`; an installed pip package; `/usr/share/datasets/<name>`; and, only with
    `download=True`, the network through tensorflow-datasets. Nothing else is ever put in its place unless `fallback` asks.

    Args:
      name: a key of `KNOWN`, or any name when `path` or a prepared set gives the data.
      path: folder of idx files, a `.deb` or (compressed) tar of them, an `.npz`, a folder with one of these, a folder of
        `x_train.npy`, `y_train.npy`, `x_test.npy` and `y_test.npy` (inputs stay on disk, of any size), a prepared tfds
        folder, or a folder with one folder of images a class.
      fallback: another name to load when this one is not found; said in a warning and in the `Source`.

    Raises:
      DataNotFoundError: a bad `path` or a damaged file (at once), or nothing found: every place and what was wrong
        there, and the fixes.
    """
    known = KNOWN.get(name, Known())
    if path is not None:
        if not os.fspath(path):
            raise DataNotFoundError("data.path is empty; give a path, or leave it out to search for the set by name.")
        return read_path(name, known, pathlib.Path(os.path.abspath(os.path.expanduser(path))))
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise DataNotFoundError(f"data set name {name!r}: expected a name such as {', '.join(KNOWN)}.")
    failures = []
    for place, read in places(name, known, data_dir, download):
        try:
            return read()
        except files.DamagedDataError:
            raise
        except DataNotFoundError as error:
            failures.append(f"  {place}: {error}")
    if fallback is not None:
        logging.getLogger("clujax").warning(
            "data set %r was not found; using %r, as asked by fallback=", name, fallback
        )
        found = load(fallback, data_dir=data_dir)
        return found._replace(source=found.source._replace(kind=f"fallback:{found.source.kind}"))
    near = [] if name in KNOWN else difflib.get_close_matches(name, KNOWN, n=1)
    asked = f"data set {name!r} was not found{f' (did you mean {near[0]!r}?)' if near else ''}. Looked at:"
    raise DataNotFoundError("\n".join([asked, *failures, "To get it:", *fixes(name, known)]))


def places(name, known, data_dir, download):
    """Where to look, in order, as (description, reader)."""
    for described, folder in (
        ("data_dir", data_dir),
        ("$TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR")),
        ("~/tensorflow_datasets", pathlib.Path.home() / "tensorflow_datasets"),
    ):
        if folder is not None:
            yield described, lambda folder=folder: read_tfds(prepared.find_prepared(name, pathlib.Path(folder)))
    root = os.environ.get("CLUJAX_DATA_DIR")
    yield "$CLUJAX_DATA_DIR", lambda: read_data_dir(name, known, root)
    yield "installed package", lambda: read_package(name, known)
    yield f"{SYSTEM}/{name.replace('_', '-')}", lambda: read_system(name, known)
    yield "network", lambda: read_network(name, download)


def fixes(name, known):
    """Copy-and-paste ways to get a data set."""
    if known.package is not None:
        yield f"  pip install {known.pip}"
    if known.apt:
        yield f"  apt-get install {known.apt}"
    yield '  TFDS_DATA_DIR=...   (a set prepared with file_format="array_record")'
    yield f"  CLUJAX_DATA_DIR=...  (holding {name}/ or {name}.npz)"
    yield "  --data.path=...      (a folder or archive of idx files, an .npz, a folder of .npy files or of images by class)"


def read_path(name: str, known: Known, path: pathlib.Path) -> Dataset:
    """A data set from exactly this path.

    Raises:
      DataNotFoundError: it is not there or not readable as one.
    """
    if not path.exists():
        raise DataNotFoundError(f"data.path {path} does not exist.")
    if path.suffix == ".npz" and path.is_file():
        parts, rows, digest = files.read_npz(path)
        return dataset(parts, known.classes, Source("npz", path.name, "", digest, 0), rows)
    if path.name.endswith(ARCHIVES) and path.is_file():
        parts, digest = files.read_idx_archive(path, known.idx)
        return dataset(parts, known.classes, Source("idx", path.name, "", digest, 0))
    if not path.is_dir():
        raise DataNotFoundError(
            f"data.path {path} is a file; expected an .npz, a {', '.join(ARCHIVES)} of idx files, or a folder."
        )
    if (path / "dataset_info.json").exists():
        return read_tfds(path)
    if (path / "x_train.npy").exists():
        parts, digest = files.read_npy_folder(path)
        return dataset(parts, known.classes, Source("npy", path.name, "", digest, 0))
    # npm lays a package's files in node_modules/<package>/data, below where it is told to install.
    for folder in (path, path / "data", *sorted(path.glob("node_modules/*/data"))):
        if folder.is_dir() and any("-ubyte" in file.name for file in folder.iterdir()):
            parts, digest = files.read_idx_folder(folder, known.idx)
            shown = folder if folder == path else folder.parent
            return dataset(parts, known.classes, Source("idx", shown.name, "", digest, 0))
    inside = sorted(file for file in path.iterdir() if file.name.endswith((".npz", *ARCHIVES)) and file.is_file())
    if len(inside) > 1:
        raise DataNotFoundError(f"{path} has {', '.join(file.name for file in inside)}; give the path of one of them.")
    return read_path(name, known, inside[0]) if inside else read_image_folder(path)


def read_data_dir(name, known, root):
    """`<name>.npz`, `<name>/<name>.npz` or whatever `read_path` reads in `<name>/`."""
    if not root:
        raise DataNotFoundError("not set")
    tries = [pathlib.Path(root) / f"{name}.npz", pathlib.Path(root) / name / f"{name}.npz", pathlib.Path(root) / name]
    for candidate in tries:
        if candidate.exists():
            return read_path(name, known, candidate)
    raise DataNotFoundError(f"has no {name}.npz and no {name}/")


def read_package(name, known):
    """Rows that an installed pip package carries, split by a fixed seed."""
    if known.package is None:
        raise DataNotFoundError("no pip package is known to carry it")
    try:
        x, y, classes, (path, version, digest) = known.package()
    except DataNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, pickle.UnpicklingError) as error:
        raise DataNotFoundError(f"the installed package does not carry it as expected ({error})") from error
    parts, rows = packages.hold_out(x, y)
    return dataset(parts, classes, Source("package", path, version, digest, 0), rows)


def read_system(name, known):
    """Debian's copy."""
    folder = SYSTEM / name.replace("_", "-")
    if not folder.exists():
        raise DataNotFoundError("no such folder")
    return read_path(name, known, folder)


def read_tfds(folder):
    """A prepared set."""
    parts, rows, classes, (path, version, digest) = prepared.read_prepared(folder)
    return dataset(parts, classes, Source("tfds", path, version, digest, 0), rows)


def read_network(name, download):
    """The network, when allowed, through tensorflow-datasets with TensorFlow."""
    if not download:
        raise DataNotFoundError("not asked (download=False)")
    import importlib.util

    if importlib.util.find_spec("tensorflow") is None:
        raise DataNotFoundError(
            "tensorflow-datasets prepares its own sets only with TensorFlow, which is not installed;"
            " prepare it elsewhere or give a path"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, file_format="array_record")
    builder.download_and_prepare()
    return read_tfds(pathlib.Path(builder.data_dir))


def read_image_folder(path):
    """`train/<class>/*` and `test/<class>/*`, or `<class>/*` of which a fifth is held out; equal sizes required."""
    from PIL import Image

    def rows_of(folder):
        classes = sorted(child.name for child in folder.iterdir() if child.is_dir())
        images, labels = [], []
        for label, name in enumerate(classes):
            for file in sorted((folder / name).iterdir()):
                if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp"):
                    try:
                        with Image.open(file) as picture:
                            images.append(np.asarray(picture.convert("RGB")))
                    except OSError as error:
                        raise files.DamagedDataError(f"{file} is not a whole image ({error}). Get it again.") from error
                    labels.append(label)
        if not images:
            raise DataNotFoundError(f"{folder} has no idx files, and no images in one folder a class.")
        if len({image.shape for image in images}) > 1:
            raise DataNotFoundError(f"{folder} has images of several sizes; resize them to one.")
        return np.stack(images), np.array(labels), tuple(classes)

    if (path / "train").is_dir() and (path / "test").is_dir():
        (x_train, y_train, classes), (x_test, y_test, others) = rows_of(path / "train"), rows_of(path / "test")
        if classes != others:
            raise DataNotFoundError(f"{path}: train has the classes {classes}, test {others}.")
        parts, rows = (x_train, y_train, x_test, y_test), None
    else:
        x, y, classes = rows_of(path)
        parts, rows = packages.hold_out(x, y)
    digest = files.sha256_arrays(*parts)
    return dataset(parts, classes, Source("folder", path.name, "", digest, 0), rows)


def dataset(parts, classes, source, rows=None) -> Dataset:
    """Columns with one dtype and form, checked, whatever the reader."""
    x_train, y_train, x_test, y_test = map(np.asanyarray, parts)  # memory maps stay
    rows = rows or (np.arange(y_train.size), np.arange(y_test.size))
    for x, y in ((x_train, y_train), (x_test, y_test)):
        if x.ndim == 0 or len(x) != y.size or y.size == 0:
            raise files.DamagedDataError(
                f"{source.path} has inputs of shape {x.shape} and labels of shape {y.shape}; expected as many, not 0."
            )
        if x.dtype.kind not in "buif":
            raise files.DamagedDataError(f"{source.path} has inputs of dtype {x.dtype}; expected numbers.")
        if not np.issubdtype(y.dtype, np.integer):
            raise files.DamagedDataError(f"{source.path} has labels of dtype {y.dtype}; expected integers.")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise files.DamagedDataError(
            f"{source.path} has training inputs {x_train.shape[1:]} but test inputs {x_test.shape[1:]}; expected alike."
        )
    # Before they become int32: 2**32 would pass as class 0.
    labels = np.concatenate([y_train.reshape(-1), y_test.reshape(-1)]).astype(np.int64)
    if not classes and labels.max() >= MOST_CLASSES:
        raise files.DamagedDataError(f"{source.path} has a label {labels.max()}; expected less than {MOST_CLASSES}.")
    classes = classes or tuple(map(str, range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise files.DamagedDataError(
            f"{source.path} has labels {labels.min()} … {labels.max()}; expected 0 … {len(classes) - 1}."
        )
    train, test = (
        {
            "x": x[..., None] if x.ndim == 3 else x,
            "y": np.asarray(y.reshape(-1), np.int32),
            "index": np.asarray(index, np.int64),
        }
        for x, y, index in ((x_train, y_train, rows[0]), (x_test, y_test, rows[1]))
    )
    return Dataset(train, test, tuple(classes), source._replace(n=len(labels)))
