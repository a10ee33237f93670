"""`report.html`: one file that opens anywhere, with its style and pictures inside and no script."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clujax.reports import results, wording
from clujax.reports.captions import caption
from clujax.reports.figures import DPI, WIDTH
from clujax.reports.results import Run
from clujax.reports.style import CSS
from clujax.reports.systems import system_of
from clujax.reports.tables import Cell, Grid, grid, legend, starred
from clujax.reports.verdict import verdict

__all__ = ["document", "escape", "page", "table", "verdict"]


def page(run: Run, pictures: Sequence[Mapping[str, bytes]]) -> str:
    """The whole report as HTML text.

    Args:
        run: the files of a run.
        pictures: per request, PNG bytes by figure name.
    """
    result = run.result
    sections = []
    for i, request in enumerate(result["requests"]):
        sections.append(_request(run, request, pictures[i] if i < len(pictures) else {}))
    if (system := system_of(result)) is not None:
        sections.append(system.section(run, pictures[-1] if pictures else {}))
    title, when = escape(result["title"]), escape(str(result.get("created", ""))[:16].replace("T", " "))
    summary = f"<p>{escape(result['summary'])}</p>" if result.get("summary") else ""
    verdicts = "".join(
        f'<div class="verdict"><p><strong>{escape(results.title(request))}</strong></p>'
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(request))
        + "</div>"
        for request in result["requests"]
    )
    head = f'<h1>{title}</h1><p class="soft">{_line(result, when)}</p>{summary}{verdicts}'
    return document(result["title"], "\n".join([head, *sections, _provenance(result)]))


def document(title: str, body: str) -> str:
    """A whole page around a body: any browser, any width, light or dark, nothing loaded from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _request(run: Run, request: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    parts = {"forget": "rows to forget", "remain": "remaining", "test": "test rows"}
    sizes = ", ".join(wording.sizes(request, parts))
    split = f" Split {escape(request['split_hash'][:12])}." if request.get("split_hash") else ""
    head, whole = (grid([(run, request)], full=full) for full in (False, True))
    every = f"<details><summary>All {len(whole.columns)} columns</summary>{table(whole)}</details>"
    return (
        f'<section><h2>{escape(results.title(request))}</h2><p class="soft">{escape(sizes)}.{split}</p>{_stream(request)}'
        f'{table(head)}<p class="soft">{escape(legend(head))}</p>{every * (head.columns != whole.columns)}'
        f"{_warnings(head)}{_remarks(head)}{_explained(request)}{_figures(request, pictures)}{_settings(request)}</section>"
    )


def _stream(request: Mapping[str, Any]) -> str:
    """The requests of a stream, one a line, and how their words are read."""
    if not wording.is_stream(request):
        return ""
    rows = "".join(
        f"<li><b>{escape(each['word'])}</b>: {escape(wording.asked(each))}</li>" for each in request["stream"]
    )
    return f"<details><summary>The requests</summary><ol>{rows}</ol><p>{escape(wording.GRAMMAR)}</p></details>"


def _figures(request: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    heads: dict[str, str] = {}
    for name, png in pictures.items():
        stream = wording.is_stream(request)
        head = "The evidence" if not stream else "After every request" if "stream_" in name else "Over the whole stream"
        heads[head] = heads.get(head, "") + figure(caption(request, name), png)
    return "".join(f'<h3>{head}</h3><div class="figures">{figures}</div>' for head, figures in heads.items())


def figure(caption: str, png: bytes) -> str:
    """A picture with its words."""
    words, (kind, style) = escape(caption), _wide(png)
    return (
        f'<figure{kind}><div><img{style} alt="{words}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _wide(png: bytes) -> tuple[str, str]:
    # A PNG's width stands in bytes 16 to 19. A figure made for the whole page is not squeezed into a column, and on a
    # narrow screen it scrolls rather than shrinks: 80 px an inch leave 8.5 pt text 9.4 px high.
    width = int.from_bytes(png[16:20], "big") / DPI
    return (' class="wide"', f' style="min-width:{5 * width:.0f}rem"') if width > 1.5 * WIDTH else ("", "")


def table(grid: Grid) -> str:
    """A table as HTML: gaps and intervals in small print below their values."""
    head = "".join(f"<th>{escape(name)}<small>{escape(direction)}</small></th>" for name, direction in grid.columns)
    body = "".join(
        f'<tr class="{row.kind}"><th scope="row">{escape(row.label)}{TAG * row.collapsed}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
        + "</tr>"
        for row in grid.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>method</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


TAG = ' <span class="tag">collapsed</span>'


def _cell(cell: Cell) -> str:
    value, gap = (escape(text) for text in starred(cell))
    if cell.beyond:
        value, gap = (value, f"<b>{gap}</b>") if gap else (f"<b>{value}</b>", gap)
    return value + "".join(f"<small>{part}</small>" for part in (gap, escape(cell.interval)) if part)


def _warnings(grid: Grid) -> str:
    return "".join(f'<p class="warn">⚠ {escape(note)}</p>' for note in grid.notes)


def _remarks(grid: Grid) -> str:
    rows = "".join(f"<li>{escape(remark)}</li>" for remark in grid.remarks)
    return (
        f"<details><summary>Which differences are larger than chance</summary><ul>{rows}</ul></details>" if rows else ""
    )


def _explained(request: Mapping[str, Any]) -> str:
    groups = {metric.get("group"): [] for metric in request["metrics"]}
    for metric in request["metrics"]:
        groups[metric.get("group")].append(metric)
    lists = "".join(
        (f"<h4>{escape(_GROUPS.get(group, str(group)))}</h4>" if group else "")
        + f"<dl>{''.join(_explanation(each, request) for each in metrics)}</dl>"
        for group, metrics in groups.items()
    )
    return f"<details><summary>What each metric means</summary>{lists}</details>" if lists else ""


_GROUPS = {
    "utility": "What still works",
    "privacy": "What an attack learns",
    "output": "How alike the predictions are",
    "summary": "All in one number",
    "cost": "What it costs",
}


def _explanation(metric: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    return (
        f"<dt><b>{escape(metric['key'])}</b></dt><dd><b>{escape(metric['label'])}</b>. {escape(metric['explain'])} "
        f'<span class="soft">{escape(_direction(metric, request))}</span></dd>'
    )


def _direction(metric: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    if metric["direction"] == "closer to retrain":
        return f"Neither high nor low is good: the closer to {wording.of(request).reference}, the better."
    return f"{metric['direction'].capitalize()} is better; ideal: {_ideal(metric)}."


def _ideal(metric: Mapping[str, Any]) -> str:
    ideal = metric["ideal"]
    return f"{ideal:g} {metric['unit']}".strip() if isinstance(ideal, (int, float)) else str(ideal)


def _settings(request: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(method['label'])}</dt><dd>{escape(', '.join(parts))}</dd>"
        for method in request["methods"]
        if (
            parts := [f"{key} {value}" for key, value in (method.get("settings") or {}).items()]
            + ([f"mask density {results.number(method['density'])}"] if method.get("density") is not None else [])
        )
    )
    return f"<details><summary>Settings of each method</summary><dl>{rows}</dl></details>" if rows else ""


def _line(result: Mapping[str, Any], when: str) -> str:
    seeds = result.get("seeds")
    parts = [when and f"{when} UTC", str(result.get("device") or "")]
    if seeds:
        parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})")
    if result.get("wall_seconds") is not None:
        parts.append(f"{result['wall_seconds']:.0f} s in all")
    return " · ".join(escape(part) for part in parts if part)


def _provenance(result: Mapping[str, Any]) -> str:
    pairs = {f"data {key}": value for key, value in (result.get("source") or {}).items()}
    pairs |= {"config": result.get("config_digest")} | (result.get("versions") or {})
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs.items() if value is not None
    )
    command = f"<pre>{escape(result['command'])}</pre>" if result.get("command") else ""
    return f"<h2>How to repeat this</h2>{command}<dl>{rows}</dl>" if command or rows else ""


def escape(value: Any) -> str:
    """A value as text that no browser takes for markup."""
    return html.escape(value if isinstance(value, str) else json.dumps(value, default=str), quote=True)
