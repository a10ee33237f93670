"""Looking in several places: the first that has what is looked for, or one error that says what was wrong at each."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from clujax.data.files import DamagedDataError
from clujax.errors import DataNotFoundError

Found = TypeVar("Found")


def first_found(
    what: str, places: Iterable[tuple[str, Callable[[], Found]]], fixes: Iterable[str]
) -> tuple[Found, str]:
    """What the first place gives that has it, and that place's name.

    Args:
      what: is looked for, as the error names it.
      places: (name, reader) in order; a reader raises `DataNotFoundError` where it finds nothing.
      fixes: ways to get it, each to copy and paste.

    Raises:
      DamagedDataError: a place has it but damaged: it is not passed over for another.
      DataNotFoundError: no place has it.

    Example:
      >>> first_found("bread", [("the shelf", lambda: "rye")], ["  bake it"])
      ('rye', 'the shelf')
    """
    failures = []
    for name, read in places:
        try:
            return read(), name
        except DamagedDataError:
            raise
        except DataNotFoundError as error:
            failures.append(f"  {name}: {error}")
    raise DataNotFoundError("\n".join([f"{what} not found. Looked at:", *failures, "To get it:", *fixes]))
