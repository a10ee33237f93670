"""What each method costs beside training again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from clujax.reports import results
from clujax.reports.figures import look

_COMPILE = "#C9A227"


def timed(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods that took time, the fastest first."""
    known = [each for each in request["methods"] if _positive(each.get("run_seconds"))]
    return sorted(known, key=lambda each: each["run_seconds"])


def cost_chart(request: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Seconds of each method, preparing and running, and those of compiling apart; the dashed line is retraining."""
    methods = timed(request)
    reference = next((each["run_seconds"] for each in methods if each["key"] == request["reference"]), None)
    figure = Figure(figsize=(look.WIDTH, 1.35 + 0.27 * len(methods)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    times = np.array([each["run_seconds"] for each in methods])
    compiling = [each["compile_seconds"] if _positive(each.get("compile_seconds")) else np.nan for each in methods]
    low, high = np.nanmin([*times, *compiling]), np.nanmax([*times, *compiling])
    left = low / max(1.6, (high / low) ** 0.08)
    rows = np.arange(len(methods))
    shades = [look.role(request, each) for each in methods]
    bars = {"left": left, "zorder": 2}
    axes.barh([np.nan], [np.nan], color=look.SOFT, label="preparing and running")
    axes.barh(rows - 0.14, times - left, height=0.42, color=shades, **bars)
    if np.isfinite(compiling).any():
        axes.barh(rows + 0.24, np.array(compiling) - left, height=0.24, color=_COMPILE, label="compiling", **bars)
    if reference:
        axes.axvline(reference, color=look.retrained(request), lw=1.2, ls="--", zorder=1, label="retraining")
    for y, (value, method) in enumerate(zip(times, methods)):
        share = reference and method["key"] != request["reference"]
        text = seconds(value) + (f"  ({share_of(value, reference)})" if share else "")
        # Beside the longer of the two bars, so that neither runs through the number; nor does the dashed line.
        spot, clear = (np.nanmax([value, compiling[y]]), y), {"fc": "white", "ec": "none", "pad": 0.6}
        axes.annotate(text, spot, (4, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=clear)
    look.plain(axes)
    look.rows(axes, request, methods)
    seconds_axis(axes, left, high)
    axes.set_xlabel("seconds, log scale" + ("\nin brackets: share of retraining" if reference else ""), fontsize=9)
    look.legend(figure, axes, 3)
    look.title(figure, f"What it costs ({look.count(seeds)})")
    return figure


def seconds_axis(axes: Any, left: float, high: float) -> None:
    """Ticks from left to high on a logarithmic axis, and room for the numbers to the right of them."""
    axes.set_xlim(left, high * (high / left) ** 0.55)
    axes.minorticks_off()
    ticks = np.outer(10.0 ** np.arange(-9, 9), (1, 2, 5) if high < 30 * left else (1,)).ravel()
    axes.set_xticks([each for each in ticks if left <= each <= 1.5 * high])
    axes.xaxis.set_major_formatter(FuncFormatter(look.tick))


def seconds(value: float) -> str:
    """A time in few digits."""
    return results.number(value, "s") if value >= 0.05 else f"{value:.2g}"


def share_of(value: float, whole: float) -> str:
    """A part of a whole: per cent of it, or how many times as much."""
    share = value / whole
    if share >= 10:
        return f"{share:.0f}×"
    return f"{share:.1f}×" if share >= 1 else f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _positive(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value)) and value > 0
