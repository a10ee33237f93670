"""Notices that the machine is about to be taken away, and the way a run ends that heeds them."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

# One count for all calls in this process: processes that run the same program count alike, whatever steps they are at.
_calls = itertools.count()


class Notice:
    """Whether the run has been told to stop, and since when (`time.perf_counter`)."""

    def __init__(self) -> None:
        self.since: float | None = None

    def came(self) -> bool:
        """Say so; asked once after each call of a step, in every process, it is true after the same one in all of them."""
        if _shared() and multihost_utils.reached_preemption_sync_point(next(_calls)):
            self._note()
        return self.since is not None

    def _note(self) -> None:
        self.since = self.since or time.perf_counter()


@contextlib.contextmanager
def listening(install: bool = True) -> Iterator[Notice]:
    """A notice that SIGTERM, or a preemption notice that `jax.distributed` passes on, brings.

    The first SIGTERM is noted and the second ends the process. The handler is set in the main thread and in place of the
    default one only: a program that handles SIGTERM itself goes on doing so. Where `jax.distributed` runs, its own
    handler is left to tell all processes, which then agree on a step; there a second SIGTERM changes nothing, and without
    `jax_enable_preemption_service` no notice comes.

    Args:
        install: False leaves SIGTERM as it is.
    """
    former: Any = signal.getsignal(signal.SIGTERM)
    outer = getattr(former, "__self__", None)
    if isinstance(outer, _Handler):  # a loop inside a loop
        yield outer.notice
        return
    notice = Notice()
    in_main = threading.current_thread() is threading.main_thread()
    if not install or not in_main or former is not signal.SIG_DFL or jax.distributed.is_initialized():
        yield notice
        return
    signal.signal(signal.SIGTERM, _Handler(notice).handle)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, former)


class _Handler:
    def __init__(self, notice: Notice):
        self.notice = notice

    def handle(self, number: int, frame: Any) -> None:
        self.notice._note()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _shared() -> bool:
    return jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
