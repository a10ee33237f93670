"""The directory of one run: whose it is, how far it got, and files that are whole or not there.

Many processes of one run share the directory: only the first of them writes to it.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from typing import Any, Literal

import jax

import clujax
from clujax.errors import ConfigError
from clujax.training import processes

CONFIG, RESULT = "config.json", "result.json"


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file whole or not at all: into a file beside it, then one rename.

    Raises:
        OSError: the disk is full or not writable; an older file of that name is as it was.
        TypeError: `value` has parts that JSON cannot hold; nothing is written.
    """
    text = json.dumps(value, indent=2, allow_nan=True) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write any file whole or not at all (a report, a figure); of many processes only the first does.

    Raises:
        OSError: as `write_json`.
    """
    if not processes.writes():
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise type(error)(
            error.errno,
            f"{error.strerror}: {path} was not written and nothing of it is left",
            str(path),
        ) from error


def claim(workdir: str | os.PathLike, config: dict) -> Literal["new", "resumable", "complete"]:
    """Make a directory the place of the run with this config, or find that it is already.

    Args:
        workdir: the run's directory; made when missing.
        config: the resolved config as JSON-able values (`ConfigDict.to_dict()`).

    Returns:
        "new" (config.json has been written), "resumable" (a run with this config began here) or "complete" (its
        `result.json` is here).

    Raises:
        ConfigError: the directory belongs to another config, has files and no config.json, or is not the same one in all
            processes.
    """
    folder = pathlib.Path(workdir)
    found = processes.from_first(lambda: _claim(folder, config))
    if blind := [i for i, sees in enumerate(processes.told(_appears(folder / CONFIG))) if not sees]:
        raise ConfigError(
            f"workdir {folder}: process {', '.join(map(str, blind))} does not see the {CONFIG} that process 0 wrote. "
            "Give a directory on a file system that all processes share"
        )
    return found


def _appears(path: pathlib.Path, seconds: float = 30.0) -> bool:
    """Whether a file is there; one that another machine wrote may take a while to be seen on a network file system."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _claim(folder: pathlib.Path, config: dict) -> str:
    config = json.loads(json.dumps(config))  # tuples become lists, as they will be read back
    if not (folder / CONFIG).exists():
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"workdir {folder} is a file; give a directory")
        if (folder / RESULT).exists():
            raise ConfigError(
                f"workdir {folder} has a {RESULT} but no {CONFIG}: it is not known whose; give another one"
            )
        write_json(folder / CONFIG, config)
        return "new"
    try:
        theirs = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ConfigError(f"{folder / CONFIG} is not JSON ({error}); give another workdir or remove this one") from None
    if theirs != config:
        raise ConfigError(
            f"workdir {folder} belongs to another config: {_differences(theirs, config)}. "
            "Give another --workdir, or the config this one began with"
        )
    return "complete" if (folder / RESULT).exists() else "resumable"


def write_result(workdir: str | os.PathLike, result: dict) -> pathlib.Path:
    """Write `result.json`, which makes the run complete: the last act of a run, and whole or not at all.

    Raises:
        OSError: as `write_json`.
    """
    path = pathlib.Path(workdir) / RESULT
    write_json(path, result)
    return path


def environment() -> dict:
    """Where and when a result was made."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"clujax": clujax.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} × {device.device_kind} ({jax.default_backend()})",
    }


def _differences(theirs: dict, ours: dict, most: int = 3) -> str:
    theirs, ours = _flat(theirs), _flat(ours)
    keys = [key for key in sorted(theirs | ours) if theirs.get(key, _flat) != ours.get(key, _flat)]
    told = []
    for key in keys[:most]:
        there, here = (repr(side[key]) if key in side else "absent" for side in (theirs, ours))
        told.append(f"{key} is {there} there and {here} here")
    more = f", and {len(keys) - most} more" if len(keys) > most else ""
    return "; ".join(told) + more


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix.rstrip("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}
