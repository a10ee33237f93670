"""How far each method ends from retraining, metric by metric: for few methods, one panel a metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from clujax.reports import compare, results, wording
from clujax.reports.figures import look


def gap_chart(request: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Distance of each method to the retrained model, one panel per metric, beside the noise floor."""
    methods = [method for method in request["methods"] if method["key"] != request["reference"]]
    metrics = compare.headline(compare.compared(request))
    shades, floor = look.colours([method["key"] for method in request["methods"]]), request.get("noise_floor") or {}
    rows = -(-len(metrics) // 2)
    figure = Figure(figsize=(look.WIDTH, 0.95 + rows * (0.62 + 0.2 * len(methods))), layout="constrained")
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for axes, metric in zip(grid.flat, metrics):
        noise = floor.get(metric["key"])
        distances = [results.distance(request, method, metric) for method in methods]
        gaps = np.abs([distance for distance, _ in distances])
        most = max(np.nanmax(gaps), noise or 0.0, 1e-6)
        linear = max(noise or 0.0, 0.04 * most)
        # Linear up to about the noise floor, then logarithmic: one collapsed method must not hide the others.
        axes.set_xscale("asinh", linear_width=linear)
        if noise is not None:
            axes.axvspan(0, noise, color=look.FAINT, lw=0, zorder=0)
            axes.axvline(noise, color="#888888", lw=0.8, zorder=1)
        for y, (method, gap, (value, signed)) in enumerate(zip(methods, gaps, distances)):
            axes.plot([0, gap], [y, y], color=shades[method["key"]], lw=1.5, solid_capstyle="butt")
            mark = "x" if compare.collapsed(method) else "o"
            axes.plot(gap, y, mark, color=shades[method["key"]], ms=5, mew=1.6, clip_on=False)
            text = results.number(value, metric["unit"], signed=signed)
            axes.annotate(
                text, (gap if np.isfinite(gap) else 0, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        right = linear * np.sinh(1.35 * np.arcsinh(most / linear))
        axes.set_xlim(0, right)
        ticks = [tick for tick in np.outer(10.0 ** np.arange(-6, 5), (1, 3)).ravel() if linear * 0.99 <= tick <= right]
        axes.set_xticks([0, *(ticks if len(ticks) < 4 else [t for t in ticks if f"{t:e}"[0] == "1"])], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(FuncFormatter(look.tick))
        unit = "points" if metric["unit"] == "%" else metric["unit"]
        axes.set_title(f"{metric['key']} ({unit})" if unit else metric["key"], fontsize=10)
        axes.set_yticks(range(len(methods)), [look.named(method) for method in methods])
        look.plain(axes)
        axes.grid(False)
    grid[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    if floor:
        told = f"shorter is better; grey: distance between {wording.of(request).pair}"
        tail = "\n×: collapsed" if any(map(compare.collapsed, methods)) else ""
        figure.supxlabel(told + tail, fontsize=9)
    look.title(figure, f"Distance to {wording.of(request).short} ({look.count(seeds)})")
    return figure
