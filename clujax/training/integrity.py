"""Where checkpoints are, which of them were completed, and whether their files are as they were written."""

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from clujax.errors import CheckpointError

SUMS = "sums.json"  # inside a step's folder: CRC-32 of each of its files
COMMITTED = "commit_success.txt"  # on a bucket, which renames no folder, this file makes a checkpoint visible
UNSUMMED = (SUMS, "_CHECKPOINT_METADATA")  # orbax adds the commit's time to the second after the rename


def absolute(directory: str | os.PathLike) -> epath.Path:
    """A directory's full path on local disk or in a Google bucket.

    Raises:
        CheckpointError: it is in another bucket, to which orbax writes no arrays.
    """
    directory = epath.Path(directory)  # pathlib would make gs:/ of gs://
    if is_bucket(directory) and not str(directory).startswith("gs://"):
        raise CheckpointError(
            f"checkpoints cannot be written to {directory}: orbax writes to local disk and gs:// only. Mount the bucket "
            "as a folder, or give another directory"
        )
    return directory if directory.is_absolute() else directory.absolute()


def is_bucket(directory: epath.Path) -> bool:
    """Whether a directory is in an object store, which renames no folder at once."""
    return "://" in str(directory)


def unfinished(directory: epath.Path) -> list[str]:
    """Names of the checkpoints in a directory that were begun and never completed."""
    if not is_bucket(directory):
        return sorted(path.name for path in directory.glob("*.orbax-checkpoint-tmp*"))
    return sorted(path.name for path in directory.glob("*") if path.name.isdigit() and not (path / COMMITTED).exists())


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():  # walk and glob lose the gs:// of a bucket
        yield from _files(path) if path.is_dir() else (path,)


def sums(folder: epath.Path) -> dict[str, int]:
    """CRC-32 of each file of a checkpoint, by its path there."""
    files = [path for path in _files(folder) if path.name not in UNSUMMED]
    with ThreadPoolExecutor() as pool:  # zlib and reading let other threads run
        return {str(file.relative_to(folder)): crc for file, crc in zip(files, pool.map(_crc, files), strict=True)}


def _crc(path: epath.Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc


def fault(folder: epath.Path) -> str | None:
    """Say what is wrong with a committed checkpoint's files, None when they are as they were written."""
    try:
        written = json.loads((folder / SUMS).read_text())
        found = sums(folder)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    for name, crc in written.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != crc:
            return f"{name} is not as it was written"
    return None
