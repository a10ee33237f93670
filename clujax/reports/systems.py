"""Systems whose runs have tables and figures of their own: a module here with `grid`, `draw` and `section`."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

NAMES = ("regression", "lora", "soups")


def system_of(result: Mapping[str, Any]) -> ModuleType | None:
    """The module of a run's system, which stands in its result under that name; None for a run of requests."""
    name = next((name for name in NAMES if name in result), None)
    # Read when asked for: these modules build on the page and the tables that ask.
    return None if name is None else importlib.import_module(f"clujax.reports.{name}")
