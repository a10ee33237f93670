"""The leaderboard as one page of HTML or Markdown."""

import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from clujax.errors import ConfigError
from clujax.reports import compare, results
from clujax.reports.build import replace
from clujax.reports.html import TAG, document, escape
from clujax.reports.ranking import Board, Entry, Standing, boards, overall, run_names
from clujax.reports.results import Run
from clujax.reports.tables import interval

_HOW = (
    "Methods go by their mean average distance to the retrained network; a collapsed method goes last, however near. "
    "Those within the noise of retraining of the best are tied and share rank 1. In square brackets: 95 % interval."
)
_MEANING = "Mean rank over the requests below; a method that some request does not rank follows after the others."


def leaderboard(runs: Sequence[Run], path: str | pathlib.Path) -> pathlib.Path:
    """Write one page that ranks the methods of several runs, whole or not at all.

    Args:
        runs: as `read` returns them.
        path: of the page; its ending, .html or .md, says in which form.

    Returns:
        The path.

    Raises:
        ConfigError: the path ends otherwise, or its directory does not exist.
        RequestError: the runs cannot be compared; see `ranking.boards`.
    """
    path = pathlib.Path(path)
    forms = {".html": as_html, ".md": as_markdown}
    if path.suffix not in forms:
        raise ConfigError(f"a leaderboard ends in .html or .md, not {path.name!r}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory to write a leaderboard into; make it first.")
    replace(path, forms[path.suffix](boards(runs), runs, path.parent).encode())
    return path


def as_html(ranking: Sequence[Board], runs: Sequence[Run], folder: pathlib.Path) -> str:
    """The page as HTML; runs are linked to by their way from `folder`."""
    names = run_names(runs)
    body = [f"<h1>Leaderboard</h1><p>{escape(_HOW)}</p>"]
    if len(ranking) > 1:
        body.append(_overall_html(ranking, overall(ranking)))
    body += [_board_html(board, names, folder) for board in ranking]
    rows = "".join(
        f"<dt>{_link(run, names, folder)}</dt><dd>{escape(run.result['title'])}{_command(run)}</dd>" for run in runs
    )
    return document("Leaderboard", "\n".join([*body, f"<h2>The runs</h2><dl>{rows}</dl>"]))


def as_markdown(ranking: Sequence[Board], runs: Sequence[Run], folder: pathlib.Path) -> str:
    """The page as Markdown; runs are linked to by their way from `folder`."""
    names = run_names(runs)
    parts = ["# Leaderboard", _HOW]
    if len(ranking) > 1:
        heads = ["method", "mean rank", *(board.title for board in ranking)]
        rows = [[each.label, _mean(each), *map(_rank, each.ranks)] for each in overall(ranking)]
        parts += ["## Over all requests", _MEANING, _rows(heads, rows)]
    for board in ranking:
        metrics = _metrics(board)
        heads = ["rank", "method", "Avg. D", *(metric["key"] for metric in metrics), "run", "settings"]
        rows = [
            [
                _place(entry),
                entry.method["label"] + ", collapsed" * compare.collapsed(entry.method),
                " ".join(filter(None, _distance(entry))),
                *(results.number(entry.method["values"].get(metric["key"]), metric["unit"]) for metric in metrics),
                names[entry.run.path],
                _settings(entry.method),
            ]
            for entry in board.entries
        ]
        parts += [f"## {board.title}", _about(board), _rows(heads, rows)]
    commands = [
        f"- [{names[run.path]}]({_way(run, folder)}): {run.result['title']}"
        + (f", `{run.result['command']}`" if run.result.get("command") else "")
        for run in runs
    ]
    return "\n\n".join([*parts, "## The runs", "\n".join(commands)]) + "\n"


def _overall_html(ranking: Sequence[Board], standings: Sequence[Standing]) -> str:
    heads = "".join(f"<th>{escape(board.title)}</th>" for board in ranking)
    rows = "".join(
        f'<tr class="{"method" if each.complete else "last"}"><th scope="row">{escape(each.label)}</th>'
        f"<td>{_mean(each)}</td>{''.join(f'<td>{_rank(rank)}</td>' for rank in each.ranks)}</tr>"
        for each in standings
    )
    return (
        f'<h2>Over all requests</h2><p class="soft">{escape(_MEANING)}</p><div class="scroll"><table><thead><tr>'
        f"<th>method</th><th>mean rank</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _board_html(board: Board, names: Mapping[pathlib.Path, str], folder: pathlib.Path) -> str:
    metrics = _metrics(board)
    heads = "".join(f"<th>{escape(metric['key'])}<small>{escape(metric['unit'])}</small></th>" for metric in metrics)
    rows = "".join(_entry_html(entry, metrics, names, folder) for entry in board.entries)
    return (
        f'<h2>{escape(board.title)}</h2><p class="soft">{escape(_about(board))}</p><div class="scroll"><table><thead>'
        f'<tr><th>method</th><th>rank</th><th>Avg. D<small>points</small></th>{heads}<th class="text">run</th>'
        f'<th class="text">settings</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _entry_html(entry: Entry, metrics: Sequence[Any], names: Mapping[pathlib.Path, str], folder: pathlib.Path) -> str:
    method, (value, ends) = entry.method, _distance(entry)
    cells = "".join(
        f"<td>{results.number(method['values'].get(metric['key']), metric['unit'])}</td>" for metric in metrics
    )
    kind = "last" if entry.rank is None else "method"
    tied = ' <span class="tag aside">tied</span>' if entry.tied else ""
    return (
        f'<tr class="{kind}"><th scope="row">{escape(method["label"])}{TAG * compare.collapsed(method)}</th>'
        f"<td>{_rank(entry.rank)}{tied}</td><td>{value}{f'<small>{ends}</small>' if ends else ''}</td>{cells}"
        f'<td class="text">{_link(entry.run, names, folder)}</td><td class="text">{_folded(_settings(method))}</td></tr>'
    )


def _metrics(board: Board) -> list[Mapping[str, Any]]:
    request = board.entries[0].request if board.entries else {"metrics": []}
    kept = compare.headline(request["metrics"])
    return [metric for metric in kept if not compare.is_cost(metric) and metric is not compare.average(request)]


def _distance(entry: Entry) -> tuple[str, str]:
    metric = compare.average(entry.request)
    std = (entry.method.get("std") or {}).get(metric["key"])
    value = results.number(entry.method["values"].get(metric["key"]), metric["unit"])
    spread = f"±{results.number(std, metric['unit'])}" if std is not None else ""
    return value + spread, interval(entry.method, metric, signed=False)


def _about(board: Board) -> str:
    parts = [f"Split {board.split_hash[:12]}"] * bool(board.split_hash) + [f"data {board.data}"] * bool(board.data)
    if board.noise is not None:
        parts.append(f"two retrained networks are {results.number(board.noise, '%')} points apart on average")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." * bool(text)


def _settings(method: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in (method.get("settings") or {}).items())


def _folded(settings: str) -> str:
    if len(settings) <= 60:
        return escape(settings)
    return f"<details><summary>all</summary>{escape(settings)}</details>"


def _place(entry: Entry) -> str:
    return _rank(entry.rank) + " (tied)" * entry.tied


def _rank(rank: int | None) -> str:
    return "–" if rank is None else str(rank)


def _mean(standing: Standing) -> str:
    ranked = sum(rank is not None for rank in standing.ranks)
    return f"{standing.mean:.1f}" + ("" if standing.complete else f" ({ranked} of {len(standing.ranks)})")


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    clean = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in [list(heads), *map(list, rows)]]
    lines = [f"| {' | '.join(row)} |" for row in clean]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def _way(run: Run, folder: pathlib.Path) -> str:
    return urllib.parse.quote(pathlib.PurePath(os.path.relpath(run.path / "report.html", folder)).as_posix())


def _link(run: Run, names: Mapping[pathlib.Path, str], folder: pathlib.Path) -> str:
    return f'<a href="{escape(_way(run, folder))}">{escape(names[run.path])}</a>'


def _command(run: Run) -> str:
    return f"<pre>{escape(run.result['command'])}</pre>" if run.result.get("command") else ""
