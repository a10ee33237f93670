"""A network in service: requests arrive one by one, and each is applied exactly once, whatever is killed when."""

import contextlib
import fnmatch
import itertools
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8, Int32, PRNGKeyArray

from clujax.continual import ledger
from clujax.continual.asked import Asked, as_asked, numbers, resolve
from clujax.continual.ledger import APPLIED, REFUSED, START, Entry, Ledger
from clujax.continual.lock import locked
from clujax.continual.method import Learner, Rules, Scene, carry_out
from clujax.continual.request import Change, Request, check_request, standing_after
from clujax.errors import CheckpointError, RequestError
from clujax.training import Checkpoints, NonFiniteError, tree_digest, workdir

REQUESTS = "requests"  # the progress of the request at hand


class State(NamedTuple):
    """What lives between requests, as it lies in checkpoints.

    Attributes:
      learner: the network and its memory; the shapes and dtypes in it stay the same along a stream.
      status: of every training row, `NEVER`, `LEARNED` or `FORGOTTEN`.
      tasks: in task-aware streams the task that each row was learned with, −1 for none; None makes a stream task-agnostic.
    """

    learner: Learner
    status: Int8[Array, " N"]
    tasks: Int32[Array, " N"] | None = None


class Deployment:
    """A learner in a directory, with its ledger; a context manager.

    A request is committed by the rename that makes its checkpoint visible: the checkpoint holds the request's ledger entry,
    which is appended to the ledger after it. What a killed process left undone is done at the next start, and a request
    that was being carried out begins again (with `checkpoint_every`, from its last checkpoint) when it is sent again.
    Checkpoints from before a forget request hold the network that knew the rows, and memory may hold the rows themselves:
    they are deleted once the request is committed, unless `keep_forgotten`. Should the one that is left be damaged, requests
    are sent again from the start.

    Attributes:
      learner: the network in service.
      status: of every training row.
      entries: the ledger.
      refusal: why the last request was refused, with its rows, which the ledger does not name; "" when it was not.
      missing: entries that the ledger has and the network lacks, since checkpoints were lost; they must be sent again.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        scene: Scene,
        rules: Rules,
        begin: Callable[[], State],
        *,
        key: PRNGKeyArray,
        config: Mapping[str, Any] | None = None,
        measure: Callable[[Learner, Change], Mapping[str, Any]] = lambda learner, change: {},
        keep: int = 2,
        keep_forgotten: bool = False,
        checkpoint_every: int | None = None,
        options: Callable[[str], Mapping[str, Any]] = lambda phase: {},
        clock: Callable[[], float] = time.time,
    ):
        """Take a directory, and the network as its last request left it.

        Args:
          directory: made when missing.
          scene, rules: of all requests.
          begin: makes the state before the first request, the same one each time; called once, with the directory locked.
          key: request n uses fold_in(key, n).
          config: JSON-able; the directory belongs to it.
          measure: `measure(learner, change)`, numbers for the ledger that follow from its arguments alone.
          keep: checkpoints that stay, at least 2 to survive damage to the newest.
          keep_forgotten: keep those from before a forget request too.
          checkpoint_every: steps between checkpoints inside a request; None for none.
          options: as for `carry_out`.
          clock: seconds since 1970.

        Raises:
          ConfigError: another process has the directory, or it belongs to another config.
          CheckpointError: ledger and checkpoints do not fit together.
        """
        self.directory = pathlib.Path(directory)
        self._scene, self._rules, self._key = scene, rules, key
        self._measure, self._every, self._options, self._clock = measure, checkpoint_every, options, clock
        self._labels = np.asarray(scene.columns["y"])
        self._config_digest = ledger.digest_of(dict(config or {}))
        self.refusal, self._keep_forgotten = "", keep_forgotten
        self._due: Entry | None = None  # committed, but not in the ledger: the disk was full
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.directory))
            workdir.claim(self.directory, dict(config or {}))
            self._ledger = Ledger(self.directory / ledger.LEDGER)
            self._checkpoints = stack.enter_context(Checkpoints(self.directory / ledger.CHECKPOINTS, keep=keep))
            self._step, self._state = self._take_up(_strong(begin()))
            known = ledger.changes(self._ledger.entries)
            self.missing = tuple(known[self._step + 1 :])
            self._clear_progress(but=f"{self._step + 1}-*")
            self._drop_forgotten()
            if self.missing:
                left = f"as request {known[self._step].id!r} left it" if self._step else "as it was at the start"
                warnings.warn(
                    f"{self.directory}: checkpoints were lost, and the network is {left}. Send again, in this order: "
                    f"{_names(self.missing)}",
                    stacklevel=2,
                )
            self._open = stack.pop_all()

    @property
    def learner(self) -> Learner:
        return self._state.learner

    @property
    def status(self) -> Int8[np.ndarray, " N"]:
        return np.asarray(self._state.status)

    @property
    def tasks(self) -> Int32[np.ndarray, " N"] | None:
        return None if self._state.tasks is None else np.asarray(self._state.tasks)

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._ledger.entries)

    def standing(self, request: Request | Asked) -> Literal["new", "lost", "done"]:
        """Whether a request is new, must be carried out once more (its checkpoint was lost), or is in the ledger.

        Raises:
          RequestError: it has no id, no numbers for rows, or the id of another request.
        """
        entry, _ = self._find(as_asked(request))
        return "new" if entry is None else "lost" if entry in self.missing else "done"

    def apply(
        self,
        request: Request | Asked,
        measure: Callable[[Learner, Change], Mapping[str, Any]] | None = None,
    ) -> Entry:
        """Carry out a request, or find that it was; both give its entry in the ledger.

        A request that cannot be carried out, or whose training diverges, changes nothing but gets an entry that says why.

        Args:
          request: with an id.
          measure: in place of the deployment's own.

        Raises:
          RequestError: it has no id, no numbers for rows, or the id of another request; nothing is recorded.
          CheckpointError: requests are missing that come before it, or it ends elsewhere than the ledger says, or its
            checkpoint could not be written.
        """
        asked, self.refusal = as_asked(request), ""
        if self._due is not None:
            self._append(self._due)
        entry, fields = self._find(asked)
        if entry is not None and entry not in self.missing:
            return entry
        if self.missing and entry is not self.missing[0]:
            raise CheckpointError(
                f"{self.directory}: request {asked.name!r} cannot be carried out before those whose checkpoints were lost. "
                f"Send these first, in this order: {_names(self.missing)}"
            )
        before = self._ledger.entries[-1 if entry is None else entry.number - 1]
        began, ticks = self._clock(), time.perf_counter()
        state, found, metrics = self._attempt(asked, before, fields, measure or self._measure)
        seconds = time.perf_counter() - ticks
        new = ledger.following(
            before,
            began=began,
            ended=self._clock(),
            seconds=seconds,
            metrics=metrics,
            id=asked.name,
            task=asked.task,
            params_before=before.params_after,
            config_digest=self._config_digest,
            **(fields | found),
        )
        if entry is not None:
            self._check_same(entry, new)
            new = entry
        if state is not None:
            self._checkpoints.save(self._step + 1, state, {"entry": ledger.to_line(new)})
            self._checkpoints.wait()  # until the rename, which is the commit
            self._step, self._state = self._step + 1, state
        if entry is None:
            self._append(new)
        else:
            self.missing = self.missing[1:]
        self._clear_progress()
        self._drop_forgotten()
        return new

    def close(self) -> None:
        """Let go of the directory."""
        self._open.close()

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_up(self, first: State) -> tuple[int, State]:
        """The newest whole checkpoint and its step, with the ledger brought up to it."""
        entries = self._ledger.entries
        found = self._checkpoints.restore(first)
        if found is None:
            return self._start(first)
        step, state, extra = found
        known = ledger.changes(entries)
        try:
            entry = ledger.from_line(extra.get("entry", ""))
        except ValueError as error:
            raise CheckpointError(self._unlike(f"checkpoint {step} has no ledger entry: {error}")) from None
        if entry.params_after != tree_digest(state.learner.params):
            raise CheckpointError(self._unlike(f"the parameters in checkpoint {step} are not those of its entry"))
        if step < len(known) and ledger.to_line(known[step]) != ledger.to_line(entry):
            raise CheckpointError(
                self._unlike(f"checkpoint {step} is not of line {known[step].number + 1} ({known[step].id!r})")
            )
        if step >= len(known):
            if entry.number != len(entries) or entry.previous != (entries[-1].content if entries else ""):
                raise CheckpointError(self._unlike(f"checkpoint {step} does not follow from the ledger's last line"))
            self._ledger.append(entry)
        return step, state

    def _start(self, first: State) -> tuple[int, State]:
        entries, digest = self._ledger.entries, tree_digest(first.learner.params)
        if entries and entries[0].params_after != digest:
            raise CheckpointError(
                self._unlike(
                    f"there is no checkpoint, and the network to start from has digest {digest[:12]}, "
                    f"not {entries[0].params_after[:12]}"
                )
            )
        if entries:
            entry = entries[0]
        else:
            now = self._clock()
            entry = ledger.following(
                None,
                began=now,
                ended=now,
                seconds=0.0,
                id="",
                status=START,
                reason="",
                asked="",
                task=None,
                params_before=digest,
                params_after=digest,
                config_digest=self._config_digest,
                **_digests((), ()),
            )
        self._checkpoints.save(0, first, {"entry": ledger.to_line(entry)})
        self._checkpoints.wait()
        if not entries:
            self._ledger.append(entry)
        return 0, first

    def _unlike(self, what: str) -> str:
        return (
            f"{self.directory}: {what}. `clujax ledger verify {self.directory}` lists all that does not fit; put the "
            "directory back from a copy, or begin in a new one"
        )

    def _find(self, asked: Asked) -> tuple[Entry | None, dict]:
        """The request's entry, if it has one, and the digests it is known by."""
        if not asked.name:
            raise RequestError("the request has no id; give each request one of its own.")
        learn, forget, *classes = numbers(asked)
        digests = _digests(learn, forget)
        digests["asked"] = ledger.digest_of(
            [learn.tolist(), forget.tolist(), *(c.tolist() for c in classes), asked.task]
        )
        entry = self._ledger.by_id.get(asked.name)
        if entry is None or entry.asked == digests["asked"]:
            return entry, digests
        same = (entry.learn_digest, entry.forget_digest) == (digests["learn_digest"], digests["forget_digest"])
        if same and entry.task == asked.task and not any(map(len, classes)):
            return entry, digests
        raise RequestError(
            f"request {asked.name!r} is not the one of that id in the ledger (line {entry.number + 1}, {entry.status}): "
            "it has other rows, classes or another task. Give it an id of its own, or serve the log that this "
            "directory began with."
        )

    def _attempt(
        self, asked: Asked, before: Entry, fields: dict, measure: Callable
    ) -> tuple[State | None, dict, Mapping]:
        """The state after a request (None when it is refused), what its entry says of it, and what was measured."""
        fields, refused = dict(fields), {"status": REFUSED, "params_after": before.params_after}
        try:
            request = resolve(asked, self._labels, self.status)
            fields |= _digests(request.learn, request.forget)
            change = check_request(request, self.status, tasks=self.tasks, task_aware=self._state.tasks is not None)
            state, adapting = self._carry_out(change, ledger.digest_of([before.content, asked.name, fields])[:16])
        except (RequestError, NonFiniteError) as error:
            self.refusal = str(error)
            diverged = "its training diverged: a loss or a parameter was not finite."
            # The error's own words on that name a place on disk, in which two runs differ.
            reason = ledger.without_rows(str(error)) if isinstance(error, RequestError) else diverged
            return None, fields | refused | {"reason": reason}, {}
        applied = {"status": APPLIED, "reason": "", "params_after": tree_digest(state.learner.params)}
        applied |= {"adapt_seconds": adapting}
        return state, fields | applied, measure(state.learner, change)

    def _carry_out(self, change: Change, identity: str) -> tuple[State, float]:
        """The state after a change and the seconds it took; its progress lies in a folder that no other change takes up."""
        step = self._step + 1
        folder = self.directory / REQUESTS / f"{step}-{identity}"
        self._clear_progress(but=folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        places = itertools.count()  # two phases of one name are two
        with contextlib.ExitStack() as stack:

            def options(phase: str) -> dict[str, Any]:
                given = dict(self._options(phase))
                if self._every is None:
                    return given
                kept = stack.enter_context(Checkpoints(folder / f"{next(places)}-{phase}"))
                return {"checkpoints": kept, "checkpoint_every": self._every} | given

            key = jax.random.fold_in(self._key, step)
            done = carry_out(self._scene, self._rules, self.learner, change, key, options=options)
        for text in done.warnings:
            warnings.warn(text, stacklevel=3)
        tasks = self.tasks
        if tasks is not None:
            tasks = tasks.copy()
            tasks[change.learn] = change.task
        state = _strong(State(done.learner, standing_after(self.status, change), tasks))
        ours, theirs = (jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", each) for each in (self._state, state))
        if ours != theirs:
            raise ValueError(
                f"the method changed the form of its learner from {ours.learner} to {theirs.learner}: what lives from "
                "request to request must keep its shapes and dtypes, or it could not be restored."
            )
        return state, done.seconds

    def _check_same(self, entry: Entry, new: Entry) -> None:
        """Refuse a request carried out once more that ended elsewhere."""
        if new.content == entry.content:
            return
        differ = [name for name in Entry._fields if getattr(entry, name) != getattr(new, name)]
        names = ", ".join(name for name in differ if name not in ("content", "times", "seal"))
        raise CheckpointError(
            f"{self.directory}: request {entry.id!r}, carried out once more since its checkpoint was lost, has content "
            f"{new.content[:12]} where the ledger has {entry.content[:12]} (line {entry.number + 1}); different: {names}. "
            "Nothing is committed. Use the versions, the device and the measurements of the first time, or begin in a "
            "new directory"
        )

    def _append(self, entry: Entry) -> None:
        self._due = entry
        self._ledger.append(entry)
        self._due = None

    def _drop_forgotten(self) -> None:
        """Delete checkpoints from before the last request that forgot rows."""
        known = ledger.changes(self._ledger.entries)[: self._step + 1]
        last = max((i for i, entry in enumerate(known) if entry.forget_count), default=0)
        if last and not self._keep_forgotten:
            self._checkpoints.drop_before(last)

    def _clear_progress(self, but: str = "") -> None:
        for folder in (self.directory / REQUESTS).glob("*"):
            if not fnmatch.fnmatch(folder.name, but):
                shutil.rmtree(folder)


def _digests(learn: Any, forget: Any) -> dict[str, Any]:
    """The fields of an entry that stand for rows."""
    sides = {"learn": learn, "forget": forget}
    counts = {f"{name}_count": len(rows) for name, rows in sides.items()}
    return counts | {f"{name}_digest": ledger.rows_digest(rows) for name, rows in sides.items()}


def _names(entries: tuple[Entry, ...]) -> str:
    return ", ".join(repr(entry.id) for entry in entries)


def _strong(state: State) -> State:
    """As it comes back from a checkpoint: arrays whose dtype is their own and not that of what they are combined with."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(one, state)
