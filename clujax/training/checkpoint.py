"""Checkpoints that survive kills, damage and full disks: orbax, with the proof that a checkpoint is whole."""

import errno
import json
import os
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from clujax.errors import CheckpointError
from clujax.training import integrity, processes

DAMAGED = "damaged-"  # prefix of a step's folder set aside


class Checkpoints:
    """The checkpoints of one run in one directory; a context manager.

    A save copies the state to host memory, and a thread writes it while training goes on. The last file written holds
    the CRC-32 of the others, so that truncation and flipped bits are found before reading; then one rename (on a bucket
    one small file) makes the checkpoint visible.
    Sharded arrays are written and read shard by shard by the processes that hold them, and may be read onto another mesh
    or by another number of processes. Where there are several, all make the same calls; process 0 judges for all.

    Attributes:
        directory: where they are.
        save_seconds: what the last save took until its checkpoint was whole, None before the first.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        keep_every: int | None = None,
        background: bool = True,
    ):
        """Open a directory, made when missing.

        Args:
            directory: the run's own `checkpoints` folder, on a file system that all its processes share, or a `gs://`
                path.
            keep: how many checkpoints stay. Two let a run survive damage to the newest.
            keep_every: checkpoints of steps that are its multiples stay for ever, beside the newest.
            background: False waits for every write.
        """
        self.directory = integrity.absolute(directory)
        self.save_seconds: float | None = None
        self._background = background
        self._writing: int | None = None
        self._began = 0.0
        policies = [LatestN(keep)] + ([EveryNSteps(keep_every)] if keep_every else [])
        # Left by a process that was killed while writing; its run would warn about them when it resumes.
        self._unfinished = processes.from_first(lambda: integrity.unfinished(self.directory))
        self._manager = _Manager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
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
        self._writing, self._began = step, time.perf_counter()
        try:
            self._manager.save(
                step,
                force=True,  # fit says when
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
        if self.save_seconds is None or jax.process_index():  # only process 0 is called back
            self.save_seconds = time.perf_counter() - self._began

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
        passed, damaged = [f"{name} (never completed)" for name in self._unfinished], []
        for step in reversed(processes.from_first(self.steps)):
            fault, found = processes.from_first(lambda step=step: integrity.fault(self._folder(step))), None
            if fault is None:
                try:
                    found = self._read(step, like)
                except CheckpointError:
                    raise
                except Exception as error:  # orbax and tensorstore raise many kinds
                    fault = f"{type(error).__name__}: {error!s:.200}"
                fault = _any(fault)
            if fault is None:
                if passed or damaged:
                    names = ", ".join(passed + [f"{s} ({why})" for s, why in damaged])
                    self._warn(f"passed over {names}; using step {step}, the last whole one")
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
            self._warn(f"passed over {', '.join(passed)}; there is no whole one, so the run starts from the beginning")
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
                folder.rmtree()

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
        # In process 0 alone, when all have written and before any may go on.
        (folder,) = self._being_written(self._writing)
        (folder / integrity.SUMS).write_text(json.dumps(integrity.sums(folder)))
        self.save_seconds = time.perf_counter() - self._began

    def _being_written(self, step: int) -> list[epath.Path]:
        if integrity.is_bucket(self.directory):
            return [self._folder(step)]
        return list(self.directory.glob(f"{step}.orbax-checkpoint-tmp*"))

    def _folder(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _warn(self, text: str) -> None:
        if jax.process_index() == 0:
            warnings.warn(f"checkpoints in {self.directory}: {text}", stacklevel=3)

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
            aside = self.directory / f"{DAMAGED}{step}"
            if aside.exists():
                aside.rmtree()
            self._folder(step).rename(aside)
        if steps:
            processes.barrier("damaged checkpoints are set aside")
            self._manager.reload()

    def _failed(self, error: Exception) -> CheckpointError:
        step, self._writing = self._writing, None
        for leftover in self._being_written(step) if jax.process_index() == 0 else []:
            if not (leftover / integrity.COMMITTED).exists():
                leftover.rmtree(missing_ok=True)
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


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Asked by orbax at each save, with a count that would disturb the one of `preemption.Notice`.
        return False


def committed(directory: str | os.PathLike) -> list[int]:
    """The steps that have a committed checkpoint in a directory, ascending; nothing in it is changed."""
    directory = integrity.absolute(directory)
    steps = [path for path in directory.glob("*") if path.name.isdigit()]
    return sorted(
        int(path.name) for path in steps if not integrity.is_bucket(directory) or (path / integrity.COMMITTED).exists()
    )


def read_arrays(directory: str | os.PathLike, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Read one checkpoint without the state it was made of, on any machine, also while its run goes on.

    Returns:
        Arrays by dotted path (`params.Dense_0.kernel`; a typed key as its data), and the `extra` saved with them.

    Raises:
        CheckpointError: it is missing, damaged or cannot be read.
    """
    folder = integrity.absolute(directory) / str(step)
    fault = integrity.fault(folder)
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


def _to_data(leaf: Any) -> jax.Array | np.ndarray:
    leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    # What each of several processes has for itself is the same in all of them, and orbax writes it once as NumPy's.
    return np.asarray(leaf) if jax.process_count() > 1 and leaf.is_fully_addressable else leaf


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


def _any(fault: str | None) -> str | None:
    """The fault that this process met, or that another one did."""
    met = processes.told(fault is not None)
    return fault or (f"process {met.index(True)} could not read it" if any(met) else None)
