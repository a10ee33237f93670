"""Readers of image files with labels: idx (gzip or raw) and npz, checked before use."""

import gzip
import hashlib
import io
import pathlib
import zipfile

import numpy as np

from clujax.errors import DataNotFoundError

# sha256 of decompressed idx content, so that every way to compress it counts as the same data.
FASHION_MNIST = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MNIST = {
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def sha256(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


def read_idx(path: str | pathlib.Path, expected: str | None = None) -> tuple[np.ndarray, str]:
    """One idx file of bytes, gzipped or raw, and the sha256 of its decompressed content.

    Raises:
      DataNotFoundError: it is damaged, not idx, or not the expected content; both sha256 are named.
    """
    path = pathlib.Path(path)
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, ValueError) as error:
        raise DataNotFoundError(f"{path} is damaged ({error}); file sha256 {sha256(raw)}. Get it again.") from error
    found = sha256(content)
    wanted = f", expected {expected}" if expected else ""
    if len(content) < 8 or content[:3] != b"\0\0\x08":
        raise DataNotFoundError(f"{path} is not an idx file of bytes; sha256 {found}{wanted}. Get it again.")
    ndim = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) != 4 + 4 * ndim + int(np.prod(shape)):
        raise DataNotFoundError(
            f"{path} is cut short or too long for shape {shape}; sha256 {found}{wanted}. Get it again."
        )
    if expected and found != expected:
        raise DataNotFoundError(f"{path} has sha256 {found}, expected {expected}: not the known data. Get it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape), found


def read_idx_folder(folder: str | pathlib.Path, expected: dict[str, str] | None):
    """The four files of an MNIST-like set: `x_train, y_train, x_test, y_test` and one sha256 of all."""
    folder = pathlib.Path(folder)
    arrays, hashes = [], []
    for part in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        rank = 3 if part.endswith("images") else 1
        names = [f"{part}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
        here = next((folder / name for name in names if (folder / name).exists()), None)
        if here is None:
            raise DataNotFoundError(f"{folder} has none of {', '.join(names)}.")
        array, found = read_idx(here, expected and expected[part])
        arrays.append(array)
        hashes.append(found)
    x_train, y_train, x_test, y_test = arrays
    for x, y, name in ((x_train, y_train, "train"), (x_test, y_test, "t10k")):
        if len(x) != len(y):
            raise DataNotFoundError(f"{folder}: {name} has {len(x)} images but {len(y)} labels.")
    return (x_train, y_train, x_test, y_test), sha256("".join(hashes).encode())


def read_npz(path: str | pathlib.Path):
    """`x_train, y_train, x_test, y_test` of an `.npz` (or `x, y`, of which every fifth row is for testing), and its sha256.

    Raises:
      DataNotFoundError: the archive is damaged, holds objects, or lacks these arrays; its sha256 is named.
    """
    path = pathlib.Path(path)
    raw = path.read_bytes()
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise DataNotFoundError(f"{path} is not a whole .npz ({error}); sha256 {sha256(raw)}. Get it again.") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        parts = tuple(arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    elif {"x", "y"} <= set(arrays):
        held = np.arange(len(arrays["y"])) % 5 == 4
        parts = (arrays["x"][~held], arrays["y"][~held], arrays["x"][held], arrays["y"][held])
    else:
        raise DataNotFoundError(
            f"{path} holds {sorted(arrays)}; expected x_train, y_train, x_test, y_test, or x and y. sha256 {sha256(raw)}."
        )
    return parts, sha256(raw)
