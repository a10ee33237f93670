"""What a request costs, method by method, beside training the oracle again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import curves, look
from clujax.reports.figures.cost import seconds, seconds_axis, share_of


def spent(request: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[tuple[curves.Curve, np.ndarray]]:
    """The methods with the seconds of every request that took time, the fastest on average first."""
    rows = [(curve, curve.values[curve.values > 0]) for curve in curves.read(request, evidence, "seconds")]
    return sorted((row for row in rows if len(row[1])), key=lambda row: row[1].mean())


def stream_time(request: Mapping[str, Any], evidence: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Seconds of every request as a dot, their mean as a diamond with its number; the dashed line is the oracle's mean."""
    rows = spent(request, evidence)
    methods = [curve.method for curve, _ in rows]
    whole = next((float(times.mean()) for curve, times in rows if curve.part == "reference"), None)
    figure = Figure(figsize=(look.WIDTH, 1.35 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for y, (curve, times) in enumerate(rows):
        shade, mean, back = look.role(request, curve.method), float(times.mean()), curve.part == "reference"
        axes.plot([times.min(), times.max()], [y, y], color=shade, lw=5, alpha=0.22, solid_capstyle="round", zorder=2)
        axes.plot(times, np.full(len(times), y), "o", color=shade, ms=3, alpha=0.65, mew=0, zorder=3)
        axes.plot(mean, y, "D", color=shade, ms=6, mec="white", mew=0.7, zorder=4)
        share = "" if whole is None or back else f"  ({share_of(mean, whole)})"
        axes.annotate(
            seconds(mean) + share,
            (times.max(), y),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )
    if whole is not None:
        axes.axvline(whole, color=look.retrained(request), lw=1.2, ls="--", zorder=1, label="oracle's mean")
    axes.plot([], [], "D", color=look.SOFT, ms=6, mec="white", label="mean")
    if any(len(times) > 1 for _, times in rows):
        axes.plot([], [], "o", color=look.SOFT, ms=3.5, alpha=0.65, label="one request")
    look.plain(axes)
    look.rows(axes, request, methods, 26)
    low, high = min(times.min() for _, times in rows), max(times.max() for _, times in rows)
    seconds_axis(axes, low / max(1.6, (high / low) ** 0.08), high)
    told = "\nin brackets: share of the oracle's" if whole is not None else ""
    axes.set_xlabel("seconds a request, log scale" + told, fontsize=9)
    look.legend(figure, axes, 3)
    look.title(figure, f"What a request costs ({look.count(seeds)})")
    return figure
