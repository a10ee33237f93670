"""The ledger of a deployment: a line for each request, chained by digests, that names no row.

`ledger.jsonl` only grows. Each line is an `Entry` as JSON. Its `content` is a digest of all that follows from the requests
(the entry before included), so two runs that did the same have the same chain; its `seal` covers the times too.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from clujax.errors import CheckpointError, ConfigError
from clujax.training import tree_digest, workdir
from clujax.training.checkpoint import DAMAGED, committed, read_arrays

LEDGER, CHECKPOINTS = "ledger.jsonl", "checkpoints"
START, APPLIED, REFUSED = "start", "applied", "refused"
PARAMS = "learner.params"  # where the network lies in a deployment's checkpoints


class Entry(NamedTuple):
    """One line.

    Attributes:
      number: its place, from 0.
      id: of the request; "" for the network at the start.
      status: "start", "applied" or "refused".
      reason: why it was refused, else "".
      asked: digest of the request as it was asked, classes not yet turned into rows.
      learn_count, learn_digest, forget_count, forget_digest: of the row numbers, see `rows_digest`.
      task: in task-aware streams, else None.
      params_before, params_after: `tree_digest` of the network's parameters.
      config_digest: of the run's config.
      metrics: what was measured before the commit.
      previous: `content` of the entry before, "" for the first.
      content: digest of all of the above.
      times: `began` and `ended` (UTC), which never descend along a ledger, `seconds` of work, `adapt_seconds` of them
        without compiling and measuring, and `clock_behind_seconds`, how far the clock was behind the entry before.
      seal: digest of everything, and of the seal before.
    """

    number: int
    id: str
    status: str
    reason: str
    asked: str
    learn_count: int
    learn_digest: str
    forget_count: int
    forget_digest: str
    task: int | None
    params_before: str
    params_after: str
    config_digest: str
    metrics: dict[str, float]
    previous: str
    content: str
    times: dict[str, Any]
    seal: str


_KINDS: dict[str, type | tuple[type, ...]] = dict.fromkeys(Entry._fields, str) | {
    "number": int,
    "learn_count": int,
    "forget_count": int,
    "task": (int, type(None)),
    "metrics": dict,
    "times": dict,
}
_TIMES = {"began": str, "ended": str} | dict.fromkeys(
    ("seconds", "adapt_seconds", "clock_behind_seconds"), (int, float)
)


class Finding(NamedTuple):
    """Something that does not fit (`fault`), or that one should know of."""

    where: str
    what: str
    fault: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def digest_of(value: Any) -> str:
    """SHA-256 of a value's JSON text with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rows_digest(rows: Sequence[int] | Integer[np.ndarray, " n"]) -> str:
    """SHA-256 of the ascending row numbers as little-endian int64.

    It shows which rows were meant to someone who has them; whoever guesses the rows can check the guess.

    Raises:
      OverflowError: a number does not fit in 64 bits.
    """
    return hashlib.sha256(np.sort(np.asarray(rows, np.int64)).astype("<i8").tobytes()).hexdigest()


def without_rows(text: str) -> str:
    """A refusal in words without the rows that it names.

    Example:
        >>> without_rows("rows 3, 17 and 2 more are to be forgotten but were never learned.")
        'some rows are to be forgotten but were never learned.'
    """
    return re.sub(r"\brows? -?\d+(, -?\d+)*( and \d+ more)?\b(?! …)", "some rows", text)


def following(
    last: Entry | None,
    *,
    began: float,
    ended: float,
    seconds: float,
    adapt_seconds: float = 0.0,
    metrics: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Entry:
    """The entry after `last`, complete with its digests.

    Args:
      last: the entry before, None for the first.
      began, ended: seconds since 1970 by the clock; a clock behind `last` is recorded, and the times of `last` are kept.
      seconds: of work, by a clock that cannot be set.
      adapt_seconds: of these, what adapting the network took, without compiling.
      metrics: numbers that follow from the requests alone.
      **fields: the rest of `Entry` but `number`, `previous`, `content` and `seal`.
    """
    fields["number"] = 0 if last is None else last.number + 1
    fields["metrics"] = {name: float(value) for name, value in (metrics or {}).items()}
    fields["previous"] = "" if last is None else last.content
    earliest = "" if last is None else last.times["ended"]
    behind = 0.0 if last is None else datetime.datetime.fromisoformat(earliest).timestamp() - min(began, ended)
    times = {
        "began": max(_utc(began), earliest),
        "ended": max(_utc(ended), _utc(began), earliest),
        "seconds": round(seconds, 3),
        "adapt_seconds": round(adapt_seconds, 3),
        "clock_behind_seconds": round(max(behind, began - ended, 0.0), 3),
    }
    entry = Entry(**fields, content="", times=times, seal="")
    entry = entry._replace(content=content_of(entry))
    return entry._replace(seal=seal_of(entry, "" if last is None else last.seal))


def content_of(entry: Entry) -> str:
    """The digest that `content` must be."""
    return digest_of({k: v for k, v in entry._asdict().items() if k not in ("content", "times", "seal")})


def seal_of(entry: Entry, seal_before: str) -> str:
    """The digest that `seal` must be."""
    return digest_of([seal_before, {k: v for k, v in entry._asdict().items() if k != "seal"}])


def to_line(entry: Entry) -> str:
    """An entry as its line in the file."""
    return json.dumps(entry._asdict()) + "\n"


def from_line(line: str) -> Entry:
    """Read a line.

    Raises:
      ValueError: it is not JSON, or its fields are not those of an entry.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"it is a JSON {type(fields).__name__}, not an object")
    _check_fields(fields, _KINDS)
    _check_fields(fields["times"], _TIMES)
    _check_fields(fields["metrics"], dict.fromkeys(fields["metrics"], (int, float)))
    return Entry(**fields)


def changes(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that made a network; checkpoint n belongs to the n-th."""
    return [entry for entry in entries if entry.status != REFUSED]


def find(directory: str | os.PathLike) -> pathlib.Path:
    """The ledger in a deployment's directory.

    Raises:
      ConfigError: there is none.
    """
    path = pathlib.Path(directory) / LEDGER
    if not path.is_file():
        raise ConfigError(f"{directory} has no {LEDGER}; name the directory of a deployment.")
    return path


def read(path: str | os.PathLike) -> tuple[list[Entry | None], bytes, list[Finding]]:
    """Read a ledger as it lies on disk, changing nothing.

    Returns:
      The entries, None in the place of a line that cannot be read; what stands after the last newline (half a line, left by
      a killed process); and a finding for each None.
    """
    *lines, torn = pathlib.Path(path).read_bytes().split(b"\n")
    entries, findings = [], []
    for i, line in enumerate(lines):
        try:
            entries.append(from_line(line.decode()))
        except (ValueError, RecursionError) as error:
            entries.append(None)
            findings.append(Finding(f"line {i + 1}", f"not an entry: {error}"))
    return entries, torn, findings


def check(entries: Sequence[Entry | None]) -> list[Finding]:
    """What does not fit in a chain of entries; links to an unreadable entry (None) are passed over."""
    findings = []
    ids: dict[str, int] = {}
    for i, entry in enumerate(entries):
        if entry is None:
            continue
        last = entries[i - 1] if i else None
        where = f"line {i + 1} ({entry.id!r})" if entry.id else f"line {i + 1}"
        findings += [Finding(where, what) for what in _misfits(entry, last, i)]
        if entry.id in ids:
            findings.append(Finding(where, f"the id stands in line {ids[entry.id]} already"))
        ids.setdefault(entry.id, i + 1)
        if entry.times["clock_behind_seconds"]:
            behind = f"the clock was {entry.times['clock_behind_seconds']} s behind the entry before"
            findings.append(Finding(where, behind, fault=False))
    return findings


class Ledger:
    """The file, opened by the one process that may write to it; `entries` (and `by_id`) are those on disk.

    Half a last line, left by a killed process, is cut off.

    Raises:
      CheckpointError: a line or the chain was changed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.path.touch()
        entries, torn, findings = read(self.path)
        faults = findings + [finding for finding in check(entries) if finding.fault]
        if faults:
            raise CheckpointError(
                f"{self.path} is not as it was written, {faults[0]}. Put it back from a copy; `clujax ledger verify "
                f"{self.path.parent}` lists all that does not fit"
            )
        if torn:
            os.truncate(self.path, self.path.stat().st_size - len(torn))
        self.entries: list[Entry] = entries
        self.by_id = {entry.id: entry for entry in entries}

    def append(self, entry: Entry) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
          OSError: the disk is full; the file ends with its last whole line.
        """
        size, line = self.path.stat().st_size, to_line(entry).encode()
        with self.path.open("ab", buffering=0) as file:
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(size)
                raise type(error)(error.errno, error.strerror, str(self.path)) from error
        self.entries.append(entry)
        self.by_id[entry.id] = entry


def verify(directory: str | os.PathLike) -> list[Finding]:
    """Check a deployment's ledger against itself, its config and its kept checkpoints; nothing is changed.

    It recomputes the chain, the seals and the digests of the parameters in every kept checkpoint. While a process serves
    the directory, it may also find what that is just about to write.

    Raises:
      ConfigError: no ledger is there.
    """
    folder = pathlib.Path(directory)
    entries, torn, findings = read(find(folder))
    findings += check(entries)
    if torn:
        findings.append(Finding(f"line {len(entries) + 1}", "half a line; the next start cuts it off"))
    if not (folder / workdir.CONFIG).is_file():
        findings.append(Finding(workdir.CONFIG, "missing"))
    else:
        try:
            ours = digest_of(json.loads((folder / workdir.CONFIG).read_text()))
        except ValueError as error:
            ours = ""
            findings.append(Finding(workdir.CONFIG, f"not JSON: {error}"))
        if ours and any(entry is not None and entry.config_digest != ours for entry in entries):
            findings.append(Finding(workdir.CONFIG, f"its digest {ours[:12]} is not the one in the ledger"))
    return findings + _check_checkpoints(folder / CHECKPOINTS, entries)


def _check_checkpoints(folder: pathlib.Path, entries: Sequence[Entry | None]) -> list[Finding]:
    findings = [
        Finding(f"{CHECKPOINTS}/{path.name}", "set aside as damaged", fault=False)
        for path in folder.glob(f"{DAMAGED}*")
    ]
    known = changes([entry for entry in entries if entry is not None])
    whole = None not in entries
    newest = None
    for step in committed(folder):
        where = f"{CHECKPOINTS}/{step}"
        try:
            arrays, extra = read_arrays(folder, step)
            entry = from_line(extra.get("entry", ""))
        except (CheckpointError, ValueError) as error:
            findings.append(Finding(where, f"{error}"))
            continue
        newest = step
        digest = tree_digest(_network(arrays))
        if digest != entry.params_after:
            findings.append(Finding(where, f"its parameters have digest {digest[:12]}, not {entry.params_after[:12]}"))
        if whole and step < len(known) and to_line(known[step]) != to_line(entry):
            findings.append(Finding(where, f"its entry is not that of line {known[step].number + 1} of the ledger"))
    if not entries and newest is None:
        findings.append(Finding(LEDGER, "no entries"))
    elif newest is None:
        findings.append(Finding(CHECKPOINTS, "none can be read, so that every request must be sent again"))
    elif newest == len(known):
        findings.append(Finding(LEDGER, f"ends before the entry of checkpoint {newest}; the next start appends it"))
    elif whole and newest > len(known):
        findings.append(Finding(LEDGER, f"ends before the entry of checkpoint {newest}, and lacks lines before that"))
    elif whole and newest < len(known) - 1:
        ids = ", ".join(repr(entry.id) for entry in known[newest + 1 :])
        findings.append(Finding(CHECKPOINTS, f"end before requests of the ledger, which must be sent again: {ids}"))
    return findings


def _network(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters among the arrays of a checkpoint, by their paths in the network."""
    inside = {name: leaf for name, leaf in arrays.items() if name == PARAMS or name.startswith(f"{PARAMS}.")}
    return {name.removeprefix(PARAMS).removeprefix("."): leaf for name, leaf in inside.items()}


def _check_fields(fields: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for word, names in (("unknown", set(fields) - set(kinds)), ("missing", set(kinds) - set(fields))):
        if names:
            raise ValueError(f"{word} fields: {', '.join(sorted(names))}")
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise ValueError(f"{name} is {fields[name]!r:.80}")


def _misfits(entry: Entry, last: Entry | None, place: int) -> list[str]:
    """What does not fit in one entry, in words."""
    found = []
    if entry.content != content_of(entry):
        found.append("its content digest is not that of its fields: it was changed")
    if place == 0 and (entry.number, entry.status, entry.previous) != (0, START, ""):
        found.append("it is not the first entry of a ledger: lines before it are missing")
    if place == 0 and entry.seal != seal_of(entry, ""):
        found.append("its seal does not fit: its fields or its times were changed")
    if entry.status == REFUSED and entry.params_after != entry.params_before:
        found.append("it was refused, but the parameters changed")
    if entry.times["ended"] < entry.times["began"]:
        found.append("it ended before it began")
    if last is None:
        return found
    if entry.status not in (APPLIED, REFUSED):
        found.append(f"its status is {entry.status!r}")
    if entry.number != last.number + 1:
        found.append(f"it has number {entry.number} after {last.number}: lines are missing or were moved")
    if entry.previous != last.content:
        found.append("it does not follow from the line before (previous is another digest)")
    # A line that follows from an entry that is not there has the seal of that one in its own.
    elif entry.seal != seal_of(entry, last.seal):
        found.append("its seal does not fit: its fields or its times, or the seal before it, were changed")
    if entry.params_before != last.params_after:
        found.append("its params_before is not the params_after of the line before")
    if entry.config_digest != last.config_digest:
        found.append("it is of another config than the line before")
    if entry.times["began"] < last.times["ended"]:
        found.append("it began before the line before ended")
    return found


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
