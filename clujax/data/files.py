"""Readers of image files with labels: idx (gzip, raw or in an archive) and npz, checked before use."""

import gzip
import hashlib
import io
import lzma
import math
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

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


PARTS = ("x_train", "y_train", "x_test", "y_test")
BLOCK, SAMPLE = 1 << 20, 64  # bytes in a block, and blocks of a large file that are hashed


class DamagedDataError(DataNotFoundError):
    """A file is there but is not what it must be: never passed over for another place that has the set."""


def sha256(content: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(content).hexdigest()


def sha256_arrays(*arrays: np.ndarray) -> str:
    """sha256 of arrays: shapes and little-endian bytes, integers as int64 save bytes."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.integer) and array.dtype != np.uint8:
            array = array.astype("<i8")
        found.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def read_idx(path: str | pathlib.Path, expected: str | None = None) -> tuple[np.ndarray, str]:
    """One idx file of bytes, gzipped or raw, and the sha256 of its decompressed content.

    Raises:
      DamagedDataError: it is damaged, not idx, or not the expected content; both sha256 are named.
    """
    return parse_idx(pathlib.Path(path).read_bytes(), str(path), expected)


def parse_idx(raw: bytes, where: str, expected: str | None = None) -> tuple[np.ndarray, str]:
    """`read_idx` of bytes that lie at `where`."""
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, ValueError, zlib.error) as error:
        wanted = f", expected content {expected}" if expected else ""
        raise DamagedDataError(
            f"{where} is damaged ({error}); sha256 of the file {sha256(raw)}{wanted}. Get it again."
        ) from error
    found = sha256(content)
    wanted = f", expected {expected}" if expected else ""
    if len(content) < 8 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DamagedDataError(f"{where} is not an idx file of bytes; sha256 {found}{wanted}. Get it again.")
    ndim = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) != 4 + 4 * ndim + math.prod(shape):
        raise DamagedDataError(
            f"{where} is cut short or too long for shape {shape}; sha256 {found}{wanted}. Get it again."
        )
    if expected and found != expected:
        raise DamagedDataError(f"{where} has sha256 {found}, expected {expected}: not the known data. Get it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape), found


def read_idx_set(where: str | pathlib.Path, members: Mapping[str, Callable], expected: dict[str, str] | None):
    """The four files of an MNIST-like set: `x_train, y_train, x_test, y_test` and one sha256 of all.

    Args:
      where: the folder or archive, for messages.
      members: file name -> reader of its bytes.
      expected: sha256 of each part's content, when known.
    """
    arrays, hashes = [], []
    for part in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        rank = 3 if part.endswith("images") else 1
        names = [f"{part}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
        here = next((name for name in names if name in members), None)
        if here is None:
            raise DamagedDataError(f"{where} has none of {', '.join(names)}.")
        array, found = parse_idx(members[here](), f"{where}/{here}", expected and expected[part])
        arrays.append(array)
        hashes.append(found)
    x_train, y_train, x_test, y_test = arrays
    for x, y, name in ((x_train, y_train, "train"), (x_test, y_test, "t10k")):
        if len(x) != len(y):
            raise DamagedDataError(f"{where}: {name} has {len(x)} images but {len(y)} labels.")
    return (x_train, y_train, x_test, y_test), sha256("".join(hashes).encode())


def read_idx_folder(folder: str | pathlib.Path, expected: dict[str, str] | None):
    """`read_idx_set` of a folder."""
    folder = pathlib.Path(folder)
    return read_idx_set(folder, {file.name: file.read_bytes for file in folder.iterdir()}, expected)


def read_idx_archive(path: str | pathlib.Path, expected: dict[str, str] | None):
    """`read_idx_set` of a Debian package or a (compressed) tar such as npm's, read in memory and not unpacked.

    Raises:
      DamagedDataError: it cannot be read or lacks the files; its sha256 is named.
    """
    path = pathlib.Path(path)
    raw = path.read_bytes()
    try:
        with tarfile.open(fileobj=io.BytesIO(deb_content(raw) if path.suffix == ".deb" else raw)) as tar:
            members = {
                pathlib.PurePosixPath(member.name).name: tar.extractfile(member).read()
                for member in tar
                if member.isfile() and "-ubyte" in member.name
            }
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError) as error:
        raise DamagedDataError(
            f"{path} is not a whole archive ({error}); sha256 {sha256(raw)}. Get it again."
        ) from error
    readers = {name: lambda content=content: content for name, content in members.items()}
    try:
        return read_idx_set(path, readers, expected)
    except DamagedDataError as error:
        raise DamagedDataError(f"{error} The archive has sha256 {sha256(raw)}.") from error


def deb_content(raw: bytes) -> bytes:
    """The `data.tar` of a Debian package: an `ar` archive, every member after a header of 60 bytes.

    Raises:
      ValueError: it is no such archive.
    """
    if not raw.startswith(b"!<arch>\n"):
        raise ValueError("it is no ar archive")
    start = 8
    while start + 60 <= len(raw):
        name, size = raw[start : start + 16], int(raw[start + 48 : start + 58])
        if name.startswith(b"data.tar"):
            return raw[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise ValueError("it has no data.tar")


def read_npz(path: str | pathlib.Path):
    """`x_train, y_train, x_test, y_test` of an `.npz`, their raw row numbers (None: counted from 0) and its sha256.

    Of an archive of `x` and `y` alone every fifth row is for testing.

    Raises:
      DamagedDataError: the archive is damaged, holds objects, or lacks these arrays; its sha256 is named.
    """
    path = pathlib.Path(path)
    raw = path.read_bytes()
    try:
        if not raw.startswith(b"PK"):
            raise ValueError("it is no zip archive")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
        raise DamagedDataError(f"{path} is not a whole .npz ({error}); sha256 {sha256(raw)}. Get it again.") from error
    if set(PARTS) <= set(arrays):
        parts, rows = tuple(arrays[name] for name in PARTS), None
    elif {"x", "y"} <= set(arrays):
        if len(arrays["x"]) != len(arrays["y"]):
            raise DamagedDataError(f"{path} has {len(arrays['x'])} x but {len(arrays['y'])} y. sha256 {sha256(raw)}.")
        held = np.arange(len(arrays["y"])) % 5 == 4
        parts = (arrays["x"][~held], arrays["y"][~held], arrays["x"][held], arrays["y"][held])
        rows = (np.flatnonzero(~held), np.flatnonzero(held))
    else:
        raise DamagedDataError(
            f"{path} holds {sorted(arrays)}; expected x_train, y_train, x_test, y_test, or x and y. sha256 {sha256(raw)}."
        )
    return parts, rows, sha256(raw)


def read_npy_folder(folder: str | pathlib.Path):
    """`x_train, y_train, x_test, y_test` of a folder of `.npy` files, as memory maps, and a sha256 of a sample of them.

    The hash covers each file's size and `SAMPLE` blocks of `BLOCK` bytes, the header and the end among them: it tells
    data sets apart and finds files that were cut, at the same cost for any size, but not every changed byte.

    Raises:
      DamagedDataError: a file is missing, is no whole `.npy` or holds objects.
    """
    folder = pathlib.Path(folder)
    arrays, found = [], hashlib.sha256()
    for part in PARTS:
        path = folder / f"{part}.npy"
        if not path.is_file():
            raise DamagedDataError(
                f"{folder} has no {part}.npy; expected {', '.join(f'{name}.npy' for name in PARTS)}."
            )
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise DamagedDataError(f"{path} is not a whole .npy of numbers ({error}). Get it again.") from error
        size = path.stat().st_size
        starts = (
            np.linspace(0, size - BLOCK, SAMPLE, dtype=np.int64) if size > BLOCK * SAMPLE else range(0, size, BLOCK)
        )
        found.update(f"{part} {size}".encode())
        with path.open("rb") as file:
            for start in starts:
                file.seek(int(start))
                found.update(file.read(BLOCK))
    return tuple(arrays), found.hexdigest()
