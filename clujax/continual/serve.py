"""Requests from a file, a pipe or standard input to a deployment, one after the other, as they come."""

import contextlib
import os
import pathlib
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from clujax.continual.asked import from_line
from clujax.continual.deployment import Deployment
from clujax.continual.ledger import APPLIED, Entry
from clujax.errors import ConfigError, RequestError

POLL_SECONDS = 0.2
CHUNK = 1 << 16


class Tally(NamedTuple):
    """What became of the lines: carried out now, in the ledger before, refused (now or before), no requests at all."""

    applied: int = 0
    passed: int = 0
    refused: int = 0
    malformed: int = 0


def tell(text: str) -> None:
    """Say something on standard error."""
    print(text, file=sys.stderr, flush=True)


def serve(deployment: Deployment, lines: Iterable[tuple[int, str]], *, say: Callable[[str], None] = tell) -> Tally:
    """Carry out the request of each line; one that cannot be is refused with its line number, and the rest goes on.

    Args:
      deployment: that carries them out.
      lines: numbers and texts, see `lines_of`; empty ones are passed over.
      say: is told what became of each.

    Raises:
      CheckpointError: as `Deployment.apply`; nothing after it could be right.
    """
    tally = Tally()
    say(f"{deployment.directory}: serving; {len(deployment.entries) - 1} requests are in the ledger")
    for number, line in lines:
        if not line.strip():
            continue
        try:
            asked = from_line(line)
        except RequestError as error:
            say(f"line {number}: not a request: {error}")
            tally = tally._replace(malformed=tally.malformed + 1)
            continue
        try:
            standing = deployment.standing(asked)
            entry = deployment.apply(asked)
        except RequestError as error:
            say(f"line {number}: refused: {error}")
            tally = tally._replace(refused=tally.refused + 1)
            continue
        say(f"line {number}: {_told(entry, standing, deployment.refusal)}")
        kind = "refused" if entry.status != APPLIED else "passed" if standing == "done" else "applied"
        tally = tally._replace(**{kind: getattr(tally, kind) + 1})
    return tally


def lines_of(
    source: str | os.PathLike, *, follow: bool = False, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, str]]:
    """Lines of a file, a named pipe or standard input, with their numbers from 1, as soon as each is whole.

    Args:
      source: a path, or "-" for standard input.
      follow: go on at the end: a file may grow, another process may open the pipe. Half a last line is waited for.
      stop: looked at between lines, and while there is none.

    Raises:
      ConfigError: at once when there is no such file; later when a followed file was cut short.
    """
    if source == "-":
        return _lines(0, follow and not stat.S_ISFIFO(os.fstat(0).st_mode), stop, "standard input")
    path = pathlib.Path(source)
    if not path.exists() or path.is_dir():
        raise ConfigError(
            f"--from {path} is {'a directory' if path.is_dir() else 'not there'}; name a JSONL file or pipe."
        )
    # A pipe without a writer would block here, deaf to signals.
    return _lines(os.open(path, os.O_RDONLY | os.O_NONBLOCK), follow, stop, str(path))


class Stop:
    """`stop()` becomes true at the first SIGINT or SIGTERM while `listening`; the second one acts as it always did."""

    def __init__(self, say: Callable[[str], None] = tell):
        self._came, self._say = False, say

    def __call__(self) -> bool:
        return self._came

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals, and give them back."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, frame: object) -> None:
            self._came = True
            restore()
            self._say(f"{signal.Signals(number).name}: stopping after the request at hand; once more stops at once.")

        try:
            for number in before:
                signal.signal(number, note)
            yield
        finally:
            restore()


def _lines(file: int, follow: bool, stop: Callable[[], bool], name: str) -> Iterator[tuple[int, str]]:
    number, rest = 0, b""
    regular = stat.S_ISREG(os.fstat(file).st_mode)
    try:
        while not stop():
            chunk = _some(file)
            if chunk == b"" and not follow:
                break
            if chunk is None:
                continue
            if not chunk:
                if regular and os.fstat(file).st_size < os.lseek(file, 0, os.SEEK_CUR):
                    raise ConfigError(f"{name} was cut short while it was followed; give the command again.")
                time.sleep(POLL_SECONDS)
                continue
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield number, line.decode("utf-8-sig", "surrogateescape")
                if stop():
                    return
        if rest and not stop() and not follow:
            yield number + 1, rest.decode("utf-8-sig", "surrogateescape")
    finally:
        if file:
            os.close(file)


def _some(file: int) -> bytes | None:
    """What is there to read: b"" at the end, None when nothing came for a while."""
    if not select.select([file], [], [], POLL_SECONDS)[0]:
        return None
    try:
        return os.read(file, CHUNK)
    except BlockingIOError:
        return None


def _told(entry: Entry, standing: str, refusal: str) -> str:
    what = f"{entry.id}: {entry.status}"
    if standing == "done":
        return f"{what} before, passed over" + (f": {entry.reason}" if entry.reason else "")
    if entry.status != APPLIED:
        return f"{what}: {refusal}"
    rows = ", ".join(f"{word} {n}" for word, n in (("learn", entry.learn_count), ("forget", entry.forget_count)) if n)
    again = " once more, with the result that the ledger has" if standing == "lost" else ""
    return f"{what}{again} in {entry.times['seconds']:.1f} s ({rows})"
