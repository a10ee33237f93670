"""Held-out batches that can be gone through again and again, and that are not the test rows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Batches = Iterable[Any]


def repeatable(batches: Batches, passes: int) -> Sequence[Any] | Iterable[Any]:
    """The batches, with a length.

    Args:
        batches: any iterable; an iterator will do for one pass.
        passes: how often they are gone through.

    Raises:
        ValueError: there is none, or an iterator that would be empty after the first pass.
    """
    if isinstance(batches, Iterator):
        if passes > 1:
            raise ValueError(
                f"batches is {type(batches).__name__}, which ends after one pass, and {passes} passes are to be made; "
                "give a list, or an object whose __iter__ begins anew."
            )
        batches = list(batches)
    found = batches if hasattr(batches, "__len__") else _Counted(batches)
    if len(found) == 0:
        raise ValueError("batches is empty; learning mixing weights needs held-out data.")
    return found


def check_apart(held_out: Any, test: Any) -> None:
    """Refuse test rows as held-out rows.

    Raises:
        ValueError: both are the same object, or columns of the same array.
    """
    same = held_out is test
    if isinstance(held_out, dict) and isinstance(test, dict):
        same = same or any(held_out[name] is test[name] for name in held_out.keys() & test.keys())
    if same:
        raise ValueError("the test rows were given as held-out rows; a soup learned on them cannot be tested on them.")


class _Counted:
    def __init__(self, batches: Iterable[Any]):
        self._batches, self._count = batches, sum(1 for _ in batches)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)
