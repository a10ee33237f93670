"""All methods by all metrics at a glance: the colour tells the size of a gap, the number its sign."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from clujax.reports import compare, results, wording
from clujax.reports.figures import look

# White to one chance unit, then a colour per doubling: lightness alone tells them apart.
_EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, np.inf)
_SHADES = ("#FFFFFF", "#FFF1C9", "#FDD48A", "#F8A55B", "#E2703F", "#B1433A", "#6E1E37")


def gap_heatmap(request: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Signed gap of every method in every metric, coloured by its size in units of chance.

    The unit of a column is its noise floor; where that is missing or zero, the column's median gap, and the column's
    head says so. Rows go by average distance, which stands in the first column.
    """
    metrics, floor = _columns(request), request.get("noise_floor") or {}
    methods = [each for each in request["methods"] if each["key"] != request["reference"]]
    gaps = np.array([[results.distance(request, each, metric)[0] for metric in metrics] for each in methods])
    units, measured = _units(np.abs(gaps), [floor.get(metric["key"]) for metric in metrics])
    sizes = np.abs(gaps) / units
    order = _order(request, methods, sizes)
    methods, sizes = [methods[i] for i in order], sizes[order]
    narrow = len(metrics) <= 4
    width = look.WIDTH if narrow else max(look.WIDE, 2.6 + 0.52 * len(metrics))
    figure = Figure(figsize=(width, 1.75 + 0.25 * (len(methods) + bool(floor))), layout="constrained")
    axes = figure.subplots()
    colours, norm = (
        ListedColormap(_SHADES).with_extremes(bad="#E8E8E8"),
        BoundaryNorm([*_EDGES[:-1], 64.0], len(_SHADES)),
    )
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(np.minimum(sizes, 63.0)),
        cmap=colours,
        norm=norm,
        edgecolors="#CFCFCF",
        lw=0.6,
        clip_on=False,
    )
    for y, method in enumerate(methods):
        for x, metric in enumerate(metrics):
            gap, signed = results.distance(request, method, metric)
            dark = np.isfinite(sizes[y, x]) and sizes[y, x] >= 16
            text = results.number(gap, metric["unit"], signed=signed)
            axes.text(
                x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8.5, color="white" if dark else look.INK
            )
    _heads(axes, request, methods, metrics, measured)
    if floor:
        _floor(axes, len(methods), metrics, floor)
    bar = figure.colorbar(mesh, ax=axes, location="bottom", aspect=45, pad=0.015, shrink=0.9 if narrow else 0.6)
    bar.set_ticks(list(_EDGES[1:-1]), labels=[f"{edge:g}" for edge in _EDGES[1:-1]])
    bar.ax.tick_params(labelsize=8.5, length=0)
    bar.set_label(textwrap.fill(_key(measured, methods), 56 if narrow else 112), fontsize=8.5)
    look.title(figure, f"Distance to {wording.of(request).short}, method by metric ({look.count(seeds)})")
    return figure


def _columns(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    metrics, first = compare.compared(request), compare.average(request)
    return sorted(metrics, key=lambda metric: metric is not first)


def _units(gaps: np.ndarray, floors: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    measured = np.array([noise is not None and np.isfinite(noise) and noise > 0 for noise in floors])
    typical = [
        np.median(column[np.isfinite(column) & (column > 0)] if np.any(column > 0) else [1.0]) for column in gaps.T
    ]
    return np.where(measured, [noise if ok else 1.0 for noise, ok in zip(floors, measured)], typical), measured


def _order(request: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], sizes: np.ndarray) -> list[int]:
    # Without an average distance, the mean over columns on the colour's own scale.
    mean = [float(np.mean(np.log1p(row[np.isfinite(row)]))) if np.isfinite(row).any() else np.inf for row in sizes]
    return sorted(range(len(methods)), key=lambda i: (compare.standing(request, methods[i]), mean[i]))


def _heads(axes: Any, request: Any, methods: Sequence[Any], metrics: Sequence[Any], measured: np.ndarray) -> None:
    words = ["points" if metric["unit"] == "%" else metric["unit"] for metric in metrics]
    keys = [look.literal(look.short(metric["key"], 14)) + "†" * (not ok) for metric, ok in zip(metrics, measured)]
    axes.xaxis.tick_top()
    places, heads = np.arange(len(metrics)) + 0.5, ["\n".join(head) for head in zip(keys, words)]
    if max(map(len, keys)) > 8:
        heads = [f"{key} ({word})" if word else key for key, word in zip(keys, words)]
        axes.set_xticks(places, heads, rotation=40, ha="left", rotation_mode="anchor")
    else:
        axes.set_xticks(places, heads)
    look.rows(axes, request, methods, 60)
    axes.set_yticks(np.arange(len(methods)) + 0.5, axes.get_yticklabels())
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_ylim(len(methods), 0)
    axes.spines[:].set_visible(False)


def _floor(axes: Any, below: int, metrics: Sequence[Any], floor: Mapping[str, float]) -> None:
    for x, metric in enumerate(metrics):
        text = results.number(floor.get(metric["key"]), metric["unit"])
        axes.text(x + 0.5, below + 0.6, text, ha="center", va="center", fontsize=8.5, style="italic", color=look.SOFT)
    labels = [*axes.get_yticklabels()]
    styles = [(text.get_text(), text.get_fontweight(), text.get_color()) for text in labels]
    axes.set_yticks(np.append(np.arange(below) + 0.5, below + 0.6), [*(s[0] for s in styles), "noise floor"])
    for text, (_, weight, colour) in zip(axes.get_yticklabels(), [*styles, ("", "normal", look.SOFT)]):
        text.set(fontweight=weight, color=colour)
    axes.get_yticklabels()[-1].set_style("italic")
    axes.set_ylim(below + 1.1, 0)


def _key(measured: np.ndarray, methods: Sequence[Mapping[str, Any]]) -> str:
    unit = "noise floors" if measured.any() else "median gaps of its column"
    other = " (†: in median gaps of the column)" if measured.any() and not measured.all() else ""
    tail = "; ×: collapsed" if any(map(compare.collapsed, methods)) else ""
    return f"size of the gap in {unit}{other}; white: at most one{tail}"
