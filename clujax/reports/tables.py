"""One table per request: methods by metrics, the gap to the reference in brackets, the noise floor below."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clujax.reports.results import Run, distance, focus, number
from clujax.reports.results import title as heading

_ARROWS = {"lower": "↓", "higher": "↑", "closer to retrain": "→"}


class Row(NamedTuple):
    """One line of a table: a label, and per column a value and its gap as text ("" for none)."""

    label: str
    cells: tuple[tuple[str, str], ...]
    kind: str  # "method", "focus", "reference" or "floor"


class Grid(NamedTuple):
    """A table before it takes a form: columns are (name with unit, direction with ideal)."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def grids(runs: Sequence[Run]) -> list[Grid]:
    """The requests of all runs; those that share a name share one table."""
    named: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for request in run.result["requests"]:
            named.setdefault(request["name"], []).append((run, request))
    return [_grid(entries) for entries in named.values()]


def tables(runs: Sequence[Run], width: int = 100) -> list[RenderableType]:
    """Tables for a terminal of `width` characters; where it is narrow, gaps stand below their values."""
    return [_terminal(grid, width) for grid in grids(runs)]


def markdown(runs: Sequence[Run]) -> str:
    """The same tables as Markdown, for a document."""
    return "\n\n".join(_markdown(grid) for grid in grids(runs)) + "\n"


def legend() -> str:
    """How to read any of these tables, in one sentence."""
    return (
        "In brackets: distance to the retrained model, signed where all seeds agree. Noise floor: distance between "
        "two retrained models; a gap below it cannot be told from chance."
    )


def _grid(entries: Sequence[tuple[Run, Mapping[str, Any]]]) -> Grid:
    methods = [method for _, request in entries for method in request["methods"]]
    metrics = list({metric["key"]: metric for _, request in entries for metric in request["metrics"]}.values())
    # A metric that this request does not have (such as one of whole classes) is no column of dashes.
    metrics = [metric for metric in metrics if any(_known(method["values"].get(metric["key"])) for method in methods)]
    # A run time that a system lists among its metrics is not told twice.
    wanted = ["compile_seconds"] + ["run_seconds"] * all(metric["unit"] != "s" for metric in metrics)
    times = [key for key in wanted if any(method.get(key) is not None for method in methods)]
    columns = [(_column(metric), f"{_ARROWS[metric['direction']]} {_ideal(metric)}") for metric in metrics]
    columns += [(f"{key.removesuffix('_seconds')} s", "↓") for key in times]
    rows, notes, seeds = [], [], set()
    for run, request in entries:
        ours = focus(request)
        prefix = f"{run.path.name}: " if len(entries) > 1 else ""
        for method in request["methods"]:
            cells = [_cell(request, method, metric) for metric in metrics]
            cells += [(number(method.get(key), "%"), "") for key in times]
            kind = "reference" if method["key"] == request["reference"] else "focus" if method is ours else "method"
            rows.append(Row(prefix + method["label"], tuple(cells), kind))
            notes += [f"{prefix}{method['label']}: {warning}" for warning in method.get("warnings") or ()]
        if floor := request.get("noise_floor"):
            cells = [(number(floor.get(metric["key"]), metric["unit"]), "") for metric in metrics]
            rows.append(Row(f"{prefix}noise floor", tuple(cells + [("", "")] * len(times)), "floor"))
        seeds.add(len(run.result.get("seeds") or [None]))
    request = entries[0][1]
    sizes = [
        f"{request[f'num_{part}']:,} {word} rows" for part, word in _PARTS if request.get(f"num_{part}") is not None
    ]
    count = "/".join(map(str, sorted(seeds)))
    title = ", ".join([heading(request), *sizes, f"{count} seed{'' if count == '1' else 's'}"])
    return Grid(title, tuple(columns), tuple(rows), tuple(notes))


_PARTS = (("forget", "forgotten"), ("remain", "remaining"), ("test", "test"))


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _column(metric: Mapping[str, Any]) -> str:
    return f"{metric['label'].lower() if metric['unit'] == 's' else metric['key']} {metric['unit']}".strip()


def _ideal(metric: Mapping[str, Any]) -> str:
    return f"{metric['ideal']:g}" if isinstance(metric["ideal"], (int, float)) else str(metric["ideal"])


def _cell(request: Mapping[str, Any], method: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[str, str]:
    key, unit = metric["key"], metric["unit"]
    std = (method.get("std") or {}).get(key)
    value = number(method["values"].get(key), unit) + (f"±{number(std, unit)}" if std is not None else "")
    # A metric whose ideal is a number is its own distance; a bracket would say the same twice.
    if metric["direction"] != "closer to retrain" or method["key"] == request["reference"]:
        return value, ""
    gap, signed = distance(request, method, metric)
    return value, f"({number(gap, unit, signed=signed)})" if np.isfinite(gap) else ""


def _terminal(grid: Grid, width: int) -> RenderableType:
    # Where the whole table does not fit, every cell and header is stacked: a cut number would mislead.
    whole = [[f"{value} {gap}".strip() for value, gap in row.cells] for row in grid.rows]
    needed = max(len(row.label) for row in grid.rows) + sum(
        2 + max(len(text) for text in (*column, *(cells[i] for cells in whole)))
        for i, column in enumerate(grid.columns)
    )
    wide = needed <= width
    join = " " if wide else "\n"
    stack = (lambda text: text) if wide else (lambda text: text.replace(" ", "\n").replace("±", "\n±"))
    table = Table(
        title=grid.title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
    )
    table.add_column(Text("method"), overflow="fold", vertical="top")
    for name, direction in grid.columns:
        header = Text.assemble((stack(name), "bold"), "\n", (stack(direction), "dim"))
        table.add_column(header, justify="right", overflow="fold", vertical="top")
    styles = {"method": "", "focus": "bold cyan", "reference": "bold", "floor": "italic"}
    for row in grid.rows:
        cells = [Text.assemble(stack(value), (f"{join}{gap}" if gap else "", "dim")) for value, gap in row.cells]
        table.add_row(Text(row.label), *cells, style=styles[row.kind])
    notes = [Text(f"warning: {note}", style="yellow") for note in grid.notes]
    return Group(Text(), table, *notes, Text(legend(), style="dim"), Text())


def _markdown(grid: Grid) -> str:
    lines = [
        f"**{grid.title}**",
        "",
        "| method | " + " | ".join(f"{name} {direction}" for name, direction in grid.columns) + " |",
        "|---" + "|---:" * len(grid.columns) + "|",
    ]
    marks = {"method": "", "focus": "**", "reference": "**", "floor": "*"}
    for row in grid.rows:
        mark = marks[row.kind]
        cells = " | ".join(f"{value} {gap}".strip() for value, gap in row.cells)
        lines.append(f"| {mark}{row.label}{mark} | {cells} |")
    notes = [f"- Warning, {note}" for note in grid.notes]
    return "\n".join([*lines, "", *notes, *([""] if notes else []), legend()])
