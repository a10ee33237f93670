"""Test accuracy class by class along a stream: what the oracle knows after each request, and what a method knows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clujax.reports import compare, results
from clujax.reports.figures import curves, look

FAR = 10.0  # points from the oracle at which a cell is framed
_SHADES = LinearSegmentedColormap.from_list("known", ["#FFFFFF", "#C9DFEE", "#6FA8D0", "#0B5C96", "#083B66"])


def stream_classes(
    request: Mapping[str, Any], evidence: Mapping[str, Any], *, seeds: int = 1, most: int = 20
) -> Figure:
    """Heat maps of test accuracy, classes by requests: left the oracle, right the method in focus.

    Cells of the method more than ten points from the oracle are framed. Of many classes, those that differ most.
    """
    kinds = classes(evidence)
    pair = maps(request, evidence)
    first, last = pair[0][1], pair[-1][1]
    shown = _widest(last - first, most)
    words, names = [str(word) for word in evidence["stream_requests"]], _names(evidence, [kinds[i] for i in shown])
    count = len(words)
    room = 0.35 + 0.085 * max(map(len, names))
    narrow = room + 0.4 * count * len(pair) <= look.WIDTH
    width = look.WIDTH if narrow else max(look.WIDE, room + 0.38 * count * len(pair))
    figure = Figure(figsize=(width, 1.95 + 0.26 * len(shown)), layout="constrained")
    grid = figure.subplots(1, len(pair), sharey=True, squeeze=False)[0]
    for axes, (method, values) in zip(grid, pair):
        mesh = axes.imshow(np.ma.masked_invalid(values[shown]), cmap=_SHADES, vmin=0, vmax=100, aspect="auto")
        axes.set_facecolor("#EDEDED")
        _numbers(axes, values[shown], first[shown], 8.5)
        curves.requests(axes, words, (width - room) / len(pair) / count)
        axes.set_xlim(-0.5, count - 0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        weight = "bold" if method is compare.focus(request) else "normal"
        axes.set_title(look.named(method), fontsize=10, loc="left", color=look.ink(request, method), fontweight=weight)
    grid[0].set_yticks(range(len(names)), names, fontsize=9)
    left = len(kinds) - len(shown)
    grid[0].set_ylabel("class" + f" ({left} that differ less not shown)" * bool(left), fontsize=9)
    bar = figure.colorbar(mesh, ax=list(grid), location="bottom", aspect=50, pad=0.02, shrink=0.9 if narrow else 0.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, length=0)
    framed = bool((np.abs(last - first)[shown] > FAR).any())
    bar.set_label("test accuracy (%)" + f"; framed: over {FAR:g} points from the oracle" * framed, fontsize=8.5)
    look.title(figure, f"Class by class ({look.count(seeds)})")
    return figure


def classes(evidence: Mapping[str, Any]) -> list[int]:
    """Numbers of the classes whose accuracies the evidence holds, in order."""
    known = [key.removeprefix("stream_class/") for key in evidence if key.startswith("stream_class/")]
    return sorted(int(number) for number in known if number.isdecimal())


def maps(request: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], np.ndarray]]:
    """Accuracies [classes, requests] of the reference and of the method in focus, as far as they are there."""
    kinds = classes(evidence)
    if not kinds:
        return []
    models = [str(model) for model in evidence["stream_models"]]
    rows = np.stack([np.asarray(evidence[f"stream_class/{kind}"], float) for kind in kinds], axis=1)
    wanted = [results.method(request, request["reference"]), compare.focus(request)]
    return [(each, rows[models.index(each["key"])]) for each in wanted if each is not None and each["key"] in models]


def _names(evidence: Mapping[str, Any], kinds: list[int]) -> list[str]:
    names = [str(name) for name in evidence.get("classes", ())]
    return [look.literal(look.short(names[kind])) if kind < len(names) else str(kind) for kind in kinds]


def _widest(gaps: np.ndarray, most: int) -> np.ndarray:
    size = np.nan_to_num(np.abs(gaps)).max(axis=1)
    return np.sort(np.argsort(-size, kind="stable")[:most])


def _numbers(axes: Any, values: np.ndarray, ideal: np.ndarray, size: float) -> None:
    for (y, x), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.0f}"
        shade = "white" if value >= 60 else look.SOFT if value < 0.5 else look.INK
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color=shade)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc="none", ec="white", lw=1.0))
        if abs(value - ideal[y, x]) > FAR:
            axes.add_patch(Rectangle((x - 0.44, y - 0.42), 0.88, 0.84, fc="none", ec="#D55E00", lw=1.8))
