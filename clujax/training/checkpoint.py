"""Checkpoints that survive kills, damage and full disks: orbax, with the proof that a checkpoint is whole."""

import errno
import json
import os
import pathlib
import shutil
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from clujax.errors import CheckpointError
from clujax.training import processes

SUMS = "sums.json"  # inside a step's folder: CRC-32 of each of its files
UNSUMMED = (SUMS, "_CHECKPOINT_METADATA")  # orbax adds the commit's time to the second after the rename
DAMAGED = "damaged-"  # prefix of a step's folder set aside


class Checkpoints:
    """The checkpoints of one run in one directory; a context manager.

    A save copies the state to host memory, and a thread writes it while training goes on. The last file written holds
    the CRC-32 of the others, so that truncation and flipped bits are found before reading; then one rename makes the
    checkpoint visible.
    Sharded arrays are written and read shard by shard by the processes that hold them.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, background: bool = True):
        """Open a directory, made when missing.

        Args:
            directory: the run's own `checkpoints` folder, on a file system that all its processes share.
            keep: how many checkpoints stay. Two let a run survive damage to the newest.
            background: False waits for every write.
        """
        self.directory = pathlib.Path(directory).absolute()
        self._background = background
        self._writing: int | None = None
        # Left by a process that was killed while writing; its run would warn about them when it resumes.
        self._unfinished = sorted(p for p in self.directory.glob("*.orbax-checkpoint-tmp*"))
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                # Called when all else is written and before the rename, in the writing thread.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
            ),
        )

    def steps(self) -> list[int]:
        """Give the steps that have a committed checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree, extra: dict | None = None) -> None:
        """Save `state` (and `extra`, a JSON-able dict) under `step`; return as soon as the state may be donated.

        Raises:
            CheckpointError: this write, or the one before it, failed. Nothing of it is left; older checkpoints are.
        """
        self.wait()  # before the new one, so that an error names the checkpoint it belongs to
        arrays = {name: _to_data(leaf) for name, leaf in _named(state)}
        index = {name: _kind(leaf) for name, leaf in arrays.items()}
        self._writing = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    extra=ocp.args.JsonSave({"index": index, "extra": extra or {}}),
                ),
            )
        except Exception as error:
            raise self._failed(error) from error
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writing is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error
        self._writing = None

    def restore(self, like: PyTree) -> tuple[int, Any, dict] | None:
        """Read the newest whole checkpoint onto the layout of `like`, on whatever devices it was saved from.

        Newer ones that are incomplete or damaged are passed over with a warning that names them and the one used;
        damaged ones are set aside under the name `damaged-<step>`.

        Args:
            like: a state, or `abstract(state)`, with the structure, shapes, dtypes and shardings to restore.

        Returns:
            `(step, state, extra)`, or None when the directory has no checkpoint.

        Raises:
            CheckpointError: none of the checkpoints is whole, or the newest whole one has another structure.
        """
        self.wait()
        passed = [f"{path.name} (never completed)" for path in self._unfinished]
        damaged = []
        for step in reversed(processes.from_first(self.steps)):
            fault, found = processes.from_first(lambda step=step: _fault(self._folder(step))), None
            if fault is None:
                try:
                    found = self._read(step, like)
                except CheckpointError:
                    raise
                except Exception as error:  # orbax and tensorstore raise many kinds
                    fault = f"{type(error).__name__}: {error!s:.200}"
            if found is not None:
                if passed or damaged:
                    names = ", ".join(passed + [f"{s} ({why})" for s, why in damaged])
                    warnings.warn(
                        f"checkpoints in {self.directory}: passed over {names}; using step {step}, the last whole one",
                        stacklevel=2,
                    )
                self._set_aside([s for s, _ in damaged])
                self._unfinished = []
                return found
            damaged.append((step, fault))
        if damaged:
            names = ", ".join(f"{s} ({why})" for s, why in damaged)
            raise CheckpointError(
                f"no whole checkpoint in {self.directory}: {names}. Move the directory away to start from the beginning"
            )
        if passed:
            warnings.warn(
                f"checkpoints in {self.directory}: passed over {', '.join(passed)}; there is no whole one, so the run "
                "starts from the beginning",
                stacklevel=2,
            )
            self._unfinished = []
        return None

    def drop_before(self, step: int) -> None:
        """Delete the checkpoints before `step`, those set aside too: what they held is not to be found again."""
        self.wait()
        for older in self.steps():
            if older < step:
                self._manager.delete(older)
        for folder in self.directory.glob(f"{DAMAGED}*") if jax.process_index() == 0 else ():
            if int(folder.name.removeprefix(DAMAGED)) < step:
                shutil.rmtree(folder)

    def close(self) -> None:
        """Finish writing and let go of the directory."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_sums(self) -> None:
        if jax.process_index() == 0:
            (folder,) = self.directory.glob(f"{self._writing}.orbax-checkpoint-tmp*")
            (folder / SUMS).write_text(json.dumps(_sums(folder)))

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _read(self, step: int, like: PyTree) -> tuple[int, Any, dict]:
        named = _named(abstract(like))
        wanted = {name: _data_like(leaf) for name, leaf in named}
        header = self._manager.restore(step, args=ocp.args.Composite(extra=ocp.args.JsonRestore()))["extra"]
        have, want = header["index"], {name: _kind(leaf) for name, leaf in wanted.items()}
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} is of another run: {name!r} is {have.get(name, 'absent')} "
                    f"there and {want.get(name, 'absent')} in the state to restore"
                )
        arrays = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))["state"]
        leaves = [_from_data(arrays[name], leaf) for name, leaf in named]
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves), header["extra"]

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps if jax.process_index() == 0 else []:
            shutil.rmtree(self.directory / f"{DAMAGED}{step}", ignore_errors=True)
            self._folder(step).rename(self.directory / f"{DAMAGED}{step}")
        if steps:
            processes.barrier("damaged checkpoints are set aside")
            self._manager.reload()

    def _failed(self, error: Exception) -> CheckpointError:
        step, self._writing = self._writing, None
        for leftover in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or any(
            words in str(error) for words in ("No space left", "RESOURCE_EXHAUSTED", "ENOSPC")
        )
        reason = "the disk is full" if full else f"{type(error).__name__}: {error!s:.300}"
        older = [s for s in self.steps() if s != step]
        rest = f"checkpoint {older[-1]} is whole" if older else "there is no older checkpoint"
        advice = "free some space and start the run again" if full else "start the run again"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.directory}: {reason}. "
            f"Nothing of it is left and {rest}; {advice}"
        )


def committed(directory: str | os.PathLike) -> list[int]:
    """The steps that have a committed checkpoint in a directory, ascending; nothing in it is changed."""
    return sorted(int(path.name) for path in pathlib.Path(directory).glob("*") if path.name.isdigit())


def read_arrays(directory: str | os.PathLike, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Read one checkpoint without the state it was made of, on any machine, also while its run goes on.

    Returns:
        Arrays by dotted path (`params.Dense_0.kernel`; a typed key as its data), and the `extra` saved with them.

    Raises:
        CheckpointError: it is missing, damaged or cannot be read.
    """
    folder = pathlib.Path(directory).absolute() / str(step)
    fault = _fault(folder)
    if fault is None:
        try:
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
                header = reader.restore(folder / "extra")
            plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in header["index"]}
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                return reader.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=plain)), header[
                    "extra"
                ]
        except Exception as error:  # orbax and tensorstore raise many kinds
            fault = f"{type(error).__name__}: {error!s:.200}"
    raise CheckpointError(f"checkpoint {step} in {directory} cannot be read: {fault}")


def abstract(state: PyTree) -> PyTree:
    """Give shapes, dtypes and shardings of a state without its values (for `Checkpoints.restore`)."""

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(one, state)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    # A flat dict by path: what is on disk does not depend on which container classes the state is made of.
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_data(leaf: Any) -> jax.Array:
    leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _data_like(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if not _is_key(leaf):
        return leaf
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _from_data(data: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    if not _is_key(like):
        return data
    impls = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)  # key_impl takes keys, not their shapes
    return jax.random.wrap_key_data(data, impl=impls[0])


def _sums(folder: pathlib.Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): _crc(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNSUMMED
    }


def _crc(path: pathlib.Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc


def _fault(folder: pathlib.Path) -> str | None:
    """Say what is wrong with a committed checkpoint's files, None when they are as they were written."""
    try:
        sums = json.loads((folder / SUMS).read_text())
        for name, crc in sums.items():
            if not (folder / name).exists():
                return f"{name} is missing"
            if _crc(folder / name) != crc:
                return f"{name} is not as it was written"
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    return None
