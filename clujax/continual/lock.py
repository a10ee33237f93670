"""One process for a directory."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from clujax.errors import ConfigError

LOCK = ".lock"


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[None]:
    """Keep other processes off a directory (made when missing); a killed process lets go at once.

    Raises:
      ConfigError: another process has it.
    """
    folder = pathlib.Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"workdir {folder} is a file; give a directory.")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by process {file.read().strip() or '(unknown)'}: one process serves a directory. "
                "Wait for it, or stop it, or give another directory."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
