"""One table per request: methods by metrics, the gap to the reference in brackets, the noise floor below."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clujax.reports import compare, wording
from clujax.reports.results import Run, distance, focus, number
from clujax.reports.results import title as heading
from clujax.reports.systems import system_of

_ARROWS = {"lower": "↓", "higher": "↑", "closer to retrain": "→"}


class Cell(NamedTuple):
    """One number as text ("" for none): value, gap in brackets, whether it is beyond chance, its 95 % interval."""

    value: str
    gap: str = ""
    beyond: bool = False
    interval: str = ""


class Row(NamedTuple):
    """One line of a table: a label, a cell per column, what it is, and whether the method collapsed."""

    label: str
    cells: tuple[Cell, ...]
    kind: str  # "method", "focus", "reference" or "floor"
    collapsed: bool = False


class Grid(NamedTuple):
    """A table before it takes a form: columns are (name with unit, direction with ideal)."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]  # per method, in words: which differences are larger than chance
    stream: bool = False  # whether its numbers are means over the requests of a stream
    said: str = ""  # how to read it, where there is no reference to tell of


def grids(runs: Sequence[Run], *, full: bool = False) -> list[Grid]:
    """The requests of all runs; those that share a name share one table.

    Args:
        runs: what to tabulate.
        full: all metrics instead of the headline.
    """
    named: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for request in run.result["requests"]:
            named.setdefault(request["name"], []).append((run, request))
    others = [system.grid(run) for run in runs if (system := system_of(run.result)) is not None]
    return [grid(entries, full=full) for entries in named.values()] + others


def tables(runs: Sequence[Run], width: int = 100, *, full: bool = False) -> list[RenderableType]:
    """Tables for a terminal of `width` characters; where it is narrow, gaps stand below their values."""
    return [_terminal(each, width) for each in grids(runs, full=full)]


def markdown(runs: Sequence[Run], *, full: bool = False) -> str:
    """The same tables as Markdown, for a document: the headline metrics, or all of them."""
    return "\n\n".join(_markdown(each) for each in grids(runs, full=full)) + "\n"


def legend(grid: Grid) -> str:
    """How to read a table, in a few short sentences."""
    if grid.said:
        return grid.said
    cells = [cell for row in grid.rows for cell in row.cells]
    words = wording.STREAM if grid.stream else wording.REQUEST
    text = "Means over the requests after the first, which all methods learn alike. " * grid.stream
    text += f"In brackets: distance to {words.reference}, signed where all seeds agree."
    if any(row.kind == "floor" for row in grid.rows) or not grid.stream:
        text += f" Noise floor: distance between {words.pair}; a gap below it cannot be told from chance."
    if any(cell.beyond for cell in cells):
        text += " *: larger than retraining varies."
    if any(row.collapsed for row in grid.rows):
        text += " Collapsed: the method destroyed what it should keep."
    return text


def grid(entries: Sequence[tuple[Run, Mapping[str, Any]]], *, full: bool = False) -> Grid:
    """One table of requests that belong together, each with the run it comes from."""
    methods = [method for _, request in entries for method in request["methods"]]
    metrics = _metrics(entries, methods, full)
    # A run time that a system lists among its metrics is not told twice.
    wanted = ["compile_seconds"] + ["run_seconds"] * all(metric["unit"] != "s" for metric in metrics)
    times = [key for key in wanted if any(method.get(key) is not None for method in methods)]
    columns = [
        (_column(metric), f"{_ARROWS[metric['direction']]} {_ideal(metric, entries[0][1])}") for metric in metrics
    ]
    columns += [(f"{key.removesuffix('_seconds')} s", "↓") for key in times]
    rows, notes, remarks, seeds = [], [], [], set()
    for run, request in entries:
        prefix = f"{run.path.name}: " if len(entries) > 1 else ""
        rows += _rows(request, metrics, times, prefix)
        for method in request["methods"]:
            notes += [f"{prefix}{method['label']}: {warning}" for warning in method.get("warnings") or ()]
        told = [(method["label"], compare.told(request, method)) for method in request["methods"]]
        remarks += [f"{prefix}{label}: {words}" for label, words in told if words]
        seeds.add(len(run.result.get("seeds") or [None]))
    request = entries[0][1]
    count = "/".join(map(str, sorted(seeds)))
    title = ", ".join([heading(request), *wording.sizes(request, _PARTS), f"{count} seed{'' if count == '1' else 's'}"])
    return Grid(title, tuple(columns), tuple(rows), tuple(notes), tuple(remarks), wording.is_stream(request))


_PARTS = {"forget": "forgotten rows", "remain": "remaining rows", "test": "test rows"}


def _metrics(entries: Sequence[tuple[Run, Mapping[str, Any]]], methods: Sequence[Any], full: bool) -> list[Any]:
    metrics = list({metric["key"]: metric for _, request in entries for metric in request["metrics"]}.values())
    metrics = metrics if full else compare.headline(metrics)
    # A metric that this request does not have (such as one of whole classes) is no column of dashes.
    return [metric for metric in metrics if any(_known(method["values"].get(metric["key"])) for method in methods)]


def _rows(request: Mapping[str, Any], metrics: Sequence[Any], times: Sequence[str], prefix: str) -> list[Row]:
    rows, ours = [], focus(request)
    for method in request["methods"]:
        cells = [_cell(request, method, metric) for metric in metrics]
        cells += [Cell(number(method.get(key), "%")) for key in times]
        kind = "reference" if method["key"] == request["reference"] else "focus" if method is ours else "method"
        rows.append(Row(prefix + method["label"], tuple(cells), kind, compare.collapsed(method)))
    if floor := request.get("noise_floor"):
        cells = [Cell(number(floor.get(metric["key"]), metric["unit"])) for metric in metrics]
        networks = f" ({request['noise_models']} networks)" if request.get("noise_models") else ""
        rows.append(Row(f"{prefix}noise floor{networks}", tuple(cells + [Cell("")] * len(times)), "floor"))
    return rows


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _column(metric: Mapping[str, Any]) -> str:
    return f"{metric['label'].lower() if metric['unit'] == 's' else metric['key']} {metric['unit']}".strip()


def _ideal(metric: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    return f"{metric['ideal']:g}" if isinstance(metric["ideal"], (int, float)) else str(request["reference"])


def _cell(request: Mapping[str, Any], method: Mapping[str, Any], metric: Mapping[str, Any]) -> Cell:
    key, unit = metric["key"], metric["unit"]
    std = (method.get("std") or {}).get(key)
    value = number(method["values"].get(key), unit) + (f"±{number(std, unit)}" if std is not None else "")
    beyond = key in (method.get("larger_than_noise") or ())
    if method["key"] == request["reference"]:
        return Cell(value)
    # A metric whose ideal is a number is its own distance; a bracket would say the same twice.
    told = metric["direction"] == "closer to retrain"
    gap, signed = distance(request, method, metric) if told else (np.nan, False)
    bracket = f"({number(gap, unit, signed=signed)})" if np.isfinite(gap) else ""
    return Cell(value, bracket, beyond, interval(method, metric, signed=told))


def interval(method: Mapping[str, Any], metric: Mapping[str, Any], *, signed: bool) -> str:
    """The 95 % interval of a gap as text, "" where none is known."""
    ends = (method.get("interval") or {}).get(metric["key"])
    if ends is None or not all(map(_known, ends)):
        return ""
    return f"[{', '.join(number(end, metric['unit'], signed=signed or end < 0) for end in ends)}]"


def starred(cell: Cell) -> tuple[str, str]:
    """Value and gap, with an asterisk behind the last of them where it is larger than chance."""
    if cell.beyond:
        return (cell.value, f"{cell.gap}*") if cell.gap else (f"{cell.value}*", "")
    return cell.value, cell.gap


def _terminal(grid: Grid, width: int) -> RenderableType:
    # Where the whole table does not fit, every cell and header is stacked, and where that does not either, the columns
    # are spread over several tables: a cut number would mislead.
    label = max(len(row.label) + len(_COLLAPSED) * row.collapsed for row in grid.rows)
    wide = label + sum(_widths(grid, stacked=False)) + 2 * len(grid.columns) <= width
    parts = [range(len(grid.columns))] if wide else _parted(_widths(grid, stacked=True), width - min(label, _NAME))
    parts = [_part(grid, part, wide, grid.title if i == 0 else None) for i, part in enumerate(parts)]
    notes = [Text(f"warning: {note}", style="yellow") for note in grid.notes]
    return Group(Text(), *parts, *notes, Text(legend(grid), style="dim"), Text())


def _stacked(text: str) -> str:
    return text.replace(" ", "\n").replace("±", "\n±")


def _widths(grid: Grid, stacked: bool) -> list[int]:
    split = (lambda text: _stacked(text).splitlines()) if stacked else (lambda text: [text])
    return [
        max(
            len(line)
            for text in (*column, *(" ".join(starred(row.cells[i])).strip() for row in grid.rows))
            for line in split(text) or [""]
        )
        for i, column in enumerate(grid.columns)
    ]


def _parted(widths: Sequence[int], room: int) -> list[Sequence[int]]:
    parts, left = [[]], room
    for i, width in enumerate(widths):
        if width + 1 > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(i)
        left -= width + 1
    return parts


def _part(grid: Grid, columns: Sequence[int], wide: bool, title: str | None) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
    )
    stack = (lambda text: text) if wide else _stacked
    table.add_column(Text("method"), overflow="fold", vertical="top", max_width=None if wide else _NAME)
    for name, direction in (grid.columns[i] for i in columns):
        header = Text.assemble((stack(name), "bold"), "\n", (stack(direction), "dim"))
        table.add_column(header, justify="right", overflow="fold", vertical="top")
    styles = {"method": "", "focus": "bold cyan", "reference": "bold", "floor": "italic"}
    for row in grid.rows:
        label = Text.assemble(row.label, (_COLLAPSED if row.collapsed else "", "bold red"))
        cells = (_printed(row.cells[i], stack, " " if wide else "\n") for i in columns)
        table.add_row(label, *cells, style=styles[row.kind])
    return table


_COLLAPSED = " collapsed"
_NAME = 24  # characters of a method's name on a line, where room is short


def _printed(cell: Cell, stack: Any, join: str) -> Text:
    value, gap = starred(cell)
    return Text.assemble(stack(value), (f"{join}{gap}" if gap else "", "bold" if cell.beyond else "dim"))


def _markdown(grid: Grid) -> str:
    lines = [
        f"**{grid.title}**",
        "",
        "| method | " + " | ".join(f"{name} {direction}" for name, direction in grid.columns) + " |",
        "|---" + "|---:" * len(grid.columns) + "|",
    ]
    marks = {"method": "", "focus": "**", "reference": "**", "floor": "*"}
    for row in grid.rows:
        mark, tail = marks[row.kind], ", collapsed" if row.collapsed else ""
        # A bare asterisk might begin emphasis.
        cells = " | ".join(" ".join(starred(cell)).strip().replace("*", r"\*") for cell in row.cells)
        label = row.label.replace("|", r"\|")
        lines.append(f"| {mark}{label}{mark}{tail} | {cells} |")
    notes = [f"- Warning, {note}" for note in grid.notes] + [f"- {remark}" for remark in grid.remarks]
    return "\n".join([*lines, "", *notes, *([""] if notes else []), legend(grid).replace("*", r"\*")])
