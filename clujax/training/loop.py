"""The loop: feed a step, log, checkpoint, resume, and stop when numbers are no longer finite."""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clujax.errors import ConfigError, Preempted
from clujax.training import preemption
from clujax.training.checkpoint import Checkpoints, abstract
from clujax.training.compiling import compilations
from clujax.training.metrics import Writer
from clujax.training.preemption import Notice

# Steps that may be queued ahead of the device; each holds its batch in memory.
IN_FLIGHT = 32


class History(NamedTuple):
    """What a run of `fit` leaves besides the state."""

    records: list[dict]  # one a logged step: {"step": i, metric: float, ...}
    start: int  # the step at which this call took up the run
    compile_seconds: float  # tracing and compiling, summed over restarts
    run_seconds: float  # everything else up to the last step, summed over restarts


class NonFiniteError(FloatingPointError):
    """A step gave a loss, gradient or update that is not finite; `step` is its index."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def fit(
    step_fn: Callable[..., Any],
    state: PyTree,
    batch_at: Callable[[int], Any],
    num_steps: int,
    *,
    start: int = 0,
    block: int = 1,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    writer: Writer | None = None,
    log_every: int = 50,
    progress: Progress | bool | None = None,
    description: str = "training",
    grace_seconds: float = 30.0,
) -> tuple[Any, History]:
    """Run `state, metrics = step_fn(state, batch_at(i))` for `i` from `start` to `num_steps - 1`.

    Steps are dispatched without waiting for their result; metrics come to the host only at logged steps (each multiple
    of `log_every`, and the last) and before checkpoints. With `checkpoints` the run takes up the newest whole one, and
    then ends with the same bits as a run that was never stopped, provided that `step_fn` and `batch_at` are pure.

    With `checkpoints`, SIGTERM or a preemption notice makes the run save its state at the end of the step at hand (in
    all processes the same one) and raise `Preempted`; the same call goes on from there.

    Args:
        step_fn: any function (state, batch) -> (state, dict of metrics, which are numbers or small arrays): a compiled
            step, or a host function that dispatches several. It may donate its state.
        state: any tree of arrays; the state before step `start`.
        batch_at: the batch of a step as a function of the step alone.
        num_steps: the index at which the run is complete.
        start: index of the first step when there is no checkpoint.
        block: steps in one call. Above 1, `step_fn` takes batches stacked on a new leading axis and gives metrics with
            that axis (`make_block_step`); checkpoints fall on ends of blocks.
        checkpoints: where to save and to resume from. The state is saved every `checkpoint_every` steps and at the end.
        checkpoint_every: None saves at the end only (and at the start, for the guard).
        writer: gets each record; on resuming, its records of steps that will be repeated are dropped.
        log_every: steps between records.
        progress: True draws a bar; a running `rich.progress.Progress` gets one more task.
        description: the bar's label.
        grace_seconds: from a preemption notice to the end of the machine. Steps dispatched ahead take a quarter of it at
            most, as far as their pace tells; a checkpoint that takes longer to write is warned of.

    Returns:
        The last state, and the records and timings. With a `writer` the records include those before a restart.

    Raises:
        NonFiniteError: a metric `loss` is not finite or a metric `finite` is false (looked at with the other metrics),
            or the parameters are not finite when they would be saved. With `checkpoints`, the last finite state is
            computed again from the newest one and saved first.
        CheckpointError: a checkpoint could not be written.
        Preempted: the run was told to stop, and its state is saved.

    Example:
        >>> import jax.numpy as jnp
        >>> def halve(state, batch):
        ...     return {"w": state["w"] / 2 + batch}, {"loss": jnp.abs(state["w"])}
        >>> state, history = fit(halve, {"w": jnp.float32(8)}, lambda step: 0.0, 3, log_every=2)
        >>> float(state["w"]), history.records
        (1.0, [{'step': 0, 'loss': 8.0}, {'step': 2, 'loss': 2.0}])
    """
    _check(num_steps=num_steps, start=start, block=block, log_every=log_every, checkpoint_every=checkpoint_every)
    if not grace_seconds > 0:
        raise ConfigError(f"grace_seconds must be above 0, got {grace_seconds!r}")
    like, before = abstract(state), {"compile_seconds": 0.0, "run_seconds": 0.0}
    if checkpoints is not None:
        found = checkpoints.restore(like)
        if found is not None:
            start, state, extra = found
            before |= {name: extra.get(name, 0.0) for name in before}
        elif start < num_steps:
            checkpoints.save(start, state, before)  # the guard below computes again from a saved state
    if writer is not None:
        writer.resume(start)

    records: list[dict] = []
    pending: list[tuple[int, int, Any]] = []
    compiling, total, told, warned = 0.0, before, False, False
    pace = _Pace(math.inf if checkpoints is None else grace_seconds / 4 / block)
    began = time.perf_counter()

    def spent() -> dict:
        run = time.perf_counter() - began - compiling
        return {
            "compile_seconds": before["compile_seconds"] + compiling,
            "run_seconds": before["run_seconds"] + run,
        }

    def collect() -> None:
        """Bring waiting metrics to the host, stop at the first that is not finite, record those that are due."""
        waiting, pending[:] = pending[:], []
        for first, size, metrics in waiting:
            metrics = jax.device_get(metrics)
            for offset in range(size):
                values = {name: v[offset] for name, v in metrics.items()} if block > 1 else metrics
                step = first + offset
                if not _finite(values):
                    raise NonFiniteError(f"{description}: step {step} gave {_describe(values)}", step)
                if step % log_every == 0 or step == num_steps - 1:
                    record = {"step": step} | {name: _plain(v) for name, v in values.items()}
                    records.append(record)
                    if writer is not None:
                        writer.write(record)

    try:
        with (
            preemption.listening(install=checkpoints is not None) as notice,
            _bar(progress, description, start, num_steps) as advance,
            compilations() as compiled,
        ):
            step = start
            while step < num_steps and not told:
                size = min(block, num_steps - step)
                batch = _feed(batch_at, step, size, block > 1)
                events, called = compiled(), time.perf_counter()
                state, metrics = step_fn(state, batch)
                if compiled() > events:
                    compiling += time.perf_counter() - called
                pending.append((step, size, metrics))
                last, step = step, step + size
                done, told = step == num_steps, notice.came()
                if told:
                    logging.getLogger("clujax").warning("%s: told to stop, after step %d", description, step - 1)
                if done or told or last // log_every != (step - 1) // log_every or last % log_every == 0:
                    collect()
                    advance(step, records[-1] if records else {})
                    pace.reached(step)
                elif len(pending) >= pace.ahead:
                    first, size, metrics = pending[-pace.ahead]
                    jax.block_until_ready(metrics)
                    pace.reached(first + size)
                due = checkpoint_every and step // checkpoint_every > last // checkpoint_every
                if done or ((due or told) and checkpoints is not None):
                    collect()
                    if not _finite_params(state):
                        raise NonFiniteError(
                            f"{description}: parameters after step {step - 1} are not finite", step - 1
                        )
                    total = spent()
                    if checkpoints is not None:
                        checkpoints.save(step, state, total)
                if checkpoints is not None and (checkpoints.save_seconds or 0) > grace_seconds and not warned:
                    warned = True
                    warnings.warn(_slow(checkpoints.save_seconds, grace_seconds), stacklevel=2)
            if checkpoints is not None:
                checkpoints.wait()
            if told or notice.since is not None:  # the notice may come while the last checkpoint is being written
                raise _preempted(notice, step, checkpoints, grace_seconds, description)
    except NonFiniteError as error:
        raise _save_last_finite(error, step_fn, batch_at, block, checkpoints, like) from None
    return state, History(writer.records() if writer is not None else records, start, **total)


def _preempted(
    notice: Notice, step: int, checkpoints: Checkpoints | None, grace_seconds: float, description: str
) -> Preempted:
    began = f"{description}: told to stop, and did so before step {step}"
    if checkpoints is None:
        return Preempted(f"{began}; nothing was saved, since fit had no checkpoints", step, None)
    took, place = time.perf_counter() - notice.since, checkpoints.directory
    over = f", longer than the {grace_seconds:g} s of grace_seconds" if took > grace_seconds else ""
    written = "" if checkpoints.save_seconds is None else f", {checkpoints.save_seconds:.1f} s of them to write it"
    return Preempted(
        f"{began}; its state was whole in {place} {took:.1f} s after the notice{over}{written}. "
        "The same command goes on from there",
        step,
        place,
    )


def _slow(seconds: float, grace_seconds: float) -> str:
    return (
        f"writing a checkpoint took {seconds:.1f} s, longer than grace_seconds ({grace_seconds:g}): a preempted run may "
        "be ended before its checkpoint is whole, and then goes on from the one before. Set checkpoint_every so that "
        "little is lost, or write to faster storage"
    )


class _Pace:
    """How many calls may be queued: IN_FLIGHT, or as few as keep the device busy and are done within `seconds`."""

    def __init__(self, seconds: float):
        self.ahead, self._seconds = 2, seconds
        self._last: tuple[int, float] | None = None

    def reached(self, step: int) -> None:
        """Note that the device is done with the steps before `step`."""
        now = time.perf_counter()
        if self._last is not None and step > self._last[0]:
            one = (now - self._last[1]) / (step - self._last[0])
            self.ahead = int(max(1, min(IN_FLIGHT, self._seconds / max(one, 1e-9))))
        self._last = step, now


def _save_last_finite(
    error: NonFiniteError,
    step_fn: Callable[..., Any],
    batch_at: Callable[[int], Any],
    block: int,
    checkpoints: Checkpoints | None,
    like: PyTree,
) -> NonFiniteError:
    """Compute the state before the bad step again (its memory was donated long since) and save it."""
    if checkpoints is None:
        return NonFiniteError(f"{error}; no state was saved, since fit had no checkpoints", error.step)
    step, state, extra = checkpoints.restore(like)
    saved, message, bad = step, str(error), error.step
    while True:
        last_finite = jax.tree.map(jnp.copy, state)
        if step + block > bad:
            break
        state, _ = step_fn(state, _feed(batch_at, step, block, block > 1))
        if not _finite_params(state):  # an update that overflowed; the metrics show it one step later
            bad = step + block - 1
            message = f"parameters after step {bad} are not finite (then: {error})"
            break
        step += block
    if step > saved:
        checkpoints.save(step, last_finite, extra)
    checkpoints.wait()
    return NonFiniteError(
        f"{message}; the last finite state, before step {step}, is saved in {checkpoints.directory}. "
        "Try a lower learning rate or clip the gradient",
        bad,
    )


def _finite_params(state: PyTree) -> bool:
    leaves = jax.tree.leaves(getattr(state, "params", state))
    floats = [leaf for leaf in leaves if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)]
    return all(jax.device_get([jnp.isfinite(leaf).all() for leaf in floats]))


def _feed(batch_at: Callable[[int], Any], step: int, size: int, stacked: bool) -> PyTree:
    if not stacked:
        return batch_at(step)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[batch_at(i) for i in range(step, step + size)])


def _finite(values: dict) -> bool:
    return bool(np.all(values.get("finite", True))) and bool(np.all(np.isfinite(values.get("loss", 0.0))))


def _describe(values: dict) -> str:
    bad = [
        f"{name} = {_plain(v)}"
        for name, v in values.items()
        if jnp.issubdtype(np.asarray(v).dtype, jnp.floating) and not np.all(np.isfinite(v))
    ]
    return ", ".join(bad) or "finite = False"


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _check(**values: int | None) -> None:
    least = {"num_steps": 0, "start": 0}
    for name, value in values.items():
        if value is not None and (value != math.floor(value) or value < least.get(name, 1)):
            raise ConfigError(f"{name} must be a whole number of at least {least.get(name, 1)}, got {value!r}")


@contextlib.contextmanager
def _bar(progress: Progress | bool | None, description: str, start: int, total: int) -> Iterator[Callable]:
    if not progress:
        yield lambda step, record: None
        return
    owned = progress is True
    bar = (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        if owned
        else progress
    )
    with bar if owned else contextlib.nullcontext():
        task = bar.add_task(description, total=total, completed=start, note="")

        def advance(step: int, record: dict) -> None:
            note = f"loss {record['loss']:.4g}" if "loss" in record else ""
            bar.update(task, completed=step, note=note)

        yield advance
