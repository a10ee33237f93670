"""A stream of requests, one after the other: accuracy by group of rows, and the distance to the oracle."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from clujax.reports import compare
from clujax.reports.figures import curves, look

GROUPS = {
    "RA": "kept rows (RA)",
    "LA": "rows just learned (LA)",
    "FA": "rows just forgotten (FA)",
    "Relapse": "rows forgotten earlier (Relapse)",
    "TA": "rows never seen (test, TA)",
}
_OWN = ("LA", "FA", "KL_forget")  # every request has other rows
DISTANCES = {
    "AvgD": "average distance\n(points)",
    "KL_forget": "KL, forgotten rows\n(nat)",
    "KL_kept": "KL, kept rows\n(nat)",
}


def stream_groups(request: Mapping[str, Any], evidence: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Accuracy after every request, one panel a group of rows; of many methods, the three furthest off are named."""
    panels = {key: found for key in GROUPS if (found := curves.read(request, evidence, key))}
    words, height = _words(evidence), 1.55
    rows = len(panels) // 2 + 1 if len(panels) % 2 else len(panels) // 2
    figure = Figure(figsize=(look.WIDE, 1.0 + (height + 0.3) * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for i, (axes, (key, found)) in enumerate(zip(grid, panels.items())):
        ideal = curves.reference(found)
        told = curves.telling(found, np.nan if ideal is None else ideal)
        curves.draw(axes, found, told, dotted=key in _OWN)
        low, high = _span(found)
        ticks = MaxNLocator(5, integer=True).tick_values(low, high)
        axes.set_yticks([tick for tick in ticks if max(low, 0) <= tick <= min(high, 100)])
        axes.set_ylim(low, high)
        look.plain(axes, "y")
        axes.set_title(GROUPS[key], fontsize=10, loc="left")
        if i % 2 == 0:
            axes.set_ylabel("accuracy (%)", fontsize=9)
        curves.requests(axes, words, 2.9 / len(words))
        if i // 2 < rows - 1 - len(panels) % 2:
            axes.set_xticklabels([])
        curves.name_ends(axes, found, told, height)
    handles = _key(request, panels, words, seeds)
    if len(panels) % 2:
        spare = grid[len(panels)]
        spare.set_axis_off()
        spare.legend(handles=handles, loc="center left", frameon=False, fontsize=9.5, handlelength=2.4, borderpad=0)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    look.title(figure, f"After every request: accuracy by group of rows ({look.count(seeds)})")
    return figure


def stream_distance(request: Mapping[str, Any], evidence: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Distance to the oracle after every request, beside that of a second oracle; linear near zero, logarithmic beyond."""
    panels = {key: found for key in DISTANCES if (found := curves.read(request, evidence, key))}
    words, height = _words(evidence), 1.6
    figure = Figure(figsize=(look.WIDTH, 1.35 + height * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    banded = beyond = False
    for axes, (key, found) in zip(grid, panels.items()):
        noise = next((curve.values for curve in found if curve.part == "again"), None)
        if noise is None:
            noise = np.full(len(words), (request.get("noise_floor") or {}).get(key, np.nan), float)
        shown = [curve for curve in found if curve.part in ("focus", "other")]
        told = curves.telling(shown, 0.0, most=2, nearest=1)
        banded |= _noise(axes, noise)
        top = _logarithmic(axes, shown, noise)
        beyond |= any(bool((curve.values > top).any()) for curve in shown)
        curves.draw(axes, shown, told, dotted=key in _OWN, top=top)
        look.plain(axes, "y")
        axes.set_ylabel(DISTANCES[key], fontsize=9)
        curves.requests(axes, words, 2.6 / len(words), 8.5)
        named = [*told, *(curve.method["key"] for curve in shown if curve.part == "focus")]
        curves.name_ends(axes, shown, named, height, 8.5)
    marks = ["×: collapsed"] * any(map(compare.collapsed, request["methods"])) + ["▲: beyond the axis"] * beyond
    note = "lower is nearer to the oracle" + banded * "; grey: distance between two oracles"
    figure.supxlabel("\n".join([note, "; ".join(marks)]).strip(), fontsize=8.5)
    look.title(figure, f"Distance to the oracle ({look.count(seeds)})")
    return figure


def _words(evidence: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in evidence["stream_requests"]]


def _span(found: Sequence[curves.Curve]) -> tuple[float, float]:
    """Limits that hold every line, at least six points apart."""
    reach = [curve.spread * (curve.part in curves.BANDED) for curve in found]
    low = max(min(np.nanmin(curve.values - wide) for curve, wide in zip(found, reach)), 0.0)
    high = min(max(np.nanmax(curve.values + wide) for curve, wide in zip(found, reach)), 100.0)
    middle, half = (low + high) / 2, max(0.54 * (high - low), 3.0)
    edge = 0.06 * half  # markers at 0 and 100 are not cut
    return max(middle - half, -edge), min(middle + half, 100 + edge)


def _noise(axes: Any, noise: np.ndarray) -> bool:
    """A grey step a request, as high as two oracles are apart."""
    known = np.flatnonzero(np.isfinite(noise) & (noise > 0))
    axes.bar(known, noise[known], width=1.0, color=look.FAINT, lw=0, zorder=0.5)
    return len(known) > 0


def _logarithmic(axes: Any, shown: Sequence[curves.Curve], noise: np.ndarray) -> float:
    """Set the axis, linear to where chance ends and logarithmic from there; returns its top.

    It reaches ten times as high as the methods that did not collapse, if anything does: a divergence of millions would
    leave no room for them.
    """
    sound = [curve for curve in shown if not compare.collapsed(curve.method)] or shown
    every, positive = (_positive([noise, *(curve.values for curve in part)]) for part in (shown, sound))
    most = min(every.max(), 10 * positive.max()) if len(positive) else 1.0
    known = _positive([noise])
    linear = float(np.median(known) if len(known) else np.percentile(positive, 10) if len(positive) else most)
    axes.set_yscale("asinh", linear_width=linear)
    top = linear * np.sinh(1.06 * np.arcsinh(most / linear))
    axes.set_ylim(0, top)
    # No number so near to zero that the two would touch.
    low = linear * np.sinh(0.1 * np.arcsinh(top / linear))
    axes.set_yticks([0, *_ticks(low, top)])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(FuncFormatter(look.tick))
    return top


def _positive(rows: Sequence[np.ndarray]) -> np.ndarray:
    values = np.concatenate(rows)
    return values[np.isfinite(values) & (values > 0)]


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers."""
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [tick for tick in np.outer(10.0 ** np.arange(-12, 9), steps).ravel() if low <= tick <= high]
        if len(found) >= 2:
            break
    return found[:: 1 + len(found) // 6]


def _key(
    request: Mapping[str, Any], panels: Mapping[str, Sequence[curves.Curve]], words: Sequence[str], seeds: int
) -> list[Any]:
    """What the lines are: a few entries, however many methods there are."""
    lines = [curve for panel in panels.values() for curve in panel]
    found = {curve.part: curve.method for curve in lines if curve.part != "other"}
    others = {curve.method["key"] for curve in lines if curve.part == "other"}
    line = lambda color, lw, label, **style: Line2D([], [], color=color, lw=lw, label=label, **style)
    handles = []
    if "reference" in found:
        name = look.named(found["reference"])
        handles.append(line(look.INK, 2.6, f"{name}: retrained after every request", marker="o", mec="white"))
    if "again" in found:
        handles.append(line(look.INK, 0.9, f"{look.named(found['again'])}: other seed", ls=(0, (3, 1.6))))
    if "focus" in found:
        handles.append(line(curves.FOCUS, 2.0, look.named(found["focus"]), marker="o", mec="white"))
    if others:
        told = "" if len(others) <= 4 else "; the three furthest off are named"
        many = "one other method" if len(others) == 1 else f"{len(others)} other methods"
        handles.append(line(curves.TOLD, 1.0, many + told))
    if seeds > 1:
        handles.append(Patch(color=curves.FOCUS, alpha=0.2, lw=0, label=f"one standard deviation over {seeds} seeds"))
    if set(panels) & set(_OWN):
        handles.append(line(curves.TOLD, 1.0, "dotted: other rows at every request", ls=(0, (1, 1.8))))
    if any("U" in word for word in words):
        handles.append(line(look.RED, 0, "in red: a request that forgets", marker="$U$", ms=7, mec=look.RED, mew=0.3))
    if any(compare.collapsed(curve.method) for curve in lines):
        handles.append(line(look.INK, 0, "collapsed", marker="x", mew=1.4))
    return handles
