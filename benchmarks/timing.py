"""Time several functions in turn in one process, so that a drift of the machine's speed falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table


class Runner:
    """A state and a function that moves it, to be called again and again."""

    def __init__(self, state: Any, move: Callable[[Any, int], Any]):
        self.state, self.move, self.count = state, move, 0

    def __call__(self):
        self.state = self.move(self.state, self.count)
        self.count += 1
        jax.block_until_ready(self.state.params)


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each function (which must wait for its result), called in turn after one warm-up round."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def table(title: str, rows: list[tuple[str, str, float, float, str]]) -> str:
    """Print rows (what, beside, seconds, baseline seconds, target) as a table, and give them as Markdown."""
    drawn = Table("what", "beside", "ms", "baseline ms", "ratio", "target", title=title)
    lines = [f"**{title}**", "", "| what | beside | ms | baseline ms | ratio | target |", "|---|---|---|---|---|---|"]
    for what, beside, seconds, baseline, target in rows:
        cells = (what, beside, f"{1e3 * seconds:.3g}", f"{1e3 * baseline:.3g}", f"{seconds / baseline:.2f}", target)
        drawn.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    Console().print(drawn)
    return "\n".join(lines) + "\n"
