"""The models of a block in host memory, the next block read by a thread while this one is learned."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxtyping import PyTree


class Loader:
    """The models of each block in turn; a context manager.

    At most b models and the one in hand are in host memory: `ahead` is called when the block's own have been let go.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], load: Callable[[int], PyTree], background: bool = True):
        """Read nothing yet.

        Args:
            blocks: numbers of models.
            load: reads one.
            background: read ahead.
        """
        self._blocks, self._load, self._waiting = iter(blocks), load, None
        self._thread = ThreadPoolExecutor(1) if background else None

    def take(self) -> list[PyTree]:
        """The models of the next block."""
        if self._waiting is None:
            return self._read(next(self._blocks))
        waiting, self._waiting = self._waiting, None
        return waiting.result()

    def ahead(self) -> None:
        """Begin to read the block after."""
        if self._thread is not None and (block := next(self._blocks, None)) is not None:
            self._waiting = self._thread.submit(self._read, block)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, block: Sequence[int]) -> list[PyTree]:
        return [self._load(k) for k in block]


def drained(models: list[PyTree]) -> Iterator[PyTree]:
    """The models of a list in order, each let go when the next is asked for."""
    while models:
        yield models.pop(0)
