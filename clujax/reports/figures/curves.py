"""Lines over the requests of a stream: what was asked below them, and the few worth a name named at their ends."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from clujax.reports import compare, results
from clujax.reports.figures import look

FOCUS, OTHER, TOLD = look.PALETTE["sfron"], "#BDBDBD", "#6E6E6E"
BANDED = ("reference", "focus")
_ORDER = {"other": 2.0, "told": 2.2, "again": 2.5, "reference": 3.0, "focus": 3.5}
_LOOKS = {
    "other": {"color": OTHER, "lw": 0.8, "ms": 2.4},
    "told": {"color": TOLD, "lw": 1.1, "ms": 3.2},
    "again": {"color": look.INK, "lw": 0.9, "ms": 1.5, "ls": (0, (3, 1.6))},
    "reference": {"color": look.INK, "lw": 2.6, "ms": 4.6},
    "focus": {"color": FOCUS, "lw": 2.0, "ms": 4.6},
}


class Curve(NamedTuple):
    """One method over the requests; nan where a request has no such number."""

    method: Mapping[str, Any]
    part: str  # "reference", "again", "focus" or "other"
    values: np.ndarray
    spread: np.ndarray  # standard deviation over seeds


def read(request: Mapping[str, Any], evidence: Mapping[str, Any], key: str) -> list[Curve]:
    """The curves of one metric, those without any number left out."""
    if f"stream_{key}" not in evidence:
        return []
    values = np.asarray(evidence[f"stream_{key}"], float)
    spread = np.nan_to_num(np.asarray(evidence.get(f"stream_{key}_std", np.zeros_like(values)), float))
    found = []
    for name, row, std in zip(map(str, evidence["stream_models"]), values, spread):
        method = results.method(request, name)
        if method is not None and np.isfinite(row).any():
            found.append(Curve(method, _part(request, method), np.where(np.isfinite(row), row, np.nan), std))
    return found


def _part(request: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    if method["key"] == request["reference"]:
        return "reference"
    if results.retrained(request, method):
        return "again"
    return "focus" if method is compare.focus(request) else "other"


def reference(curves: Sequence[Curve]) -> np.ndarray | None:
    """Values of what methods are measured to."""
    return next((curve.values for curve in curves if curve.part == "reference"), None)


def telling(curves: Sequence[Curve], ideal: np.ndarray | float, most: int = 3, nearest: int = 0) -> list[str]:
    """Keys of the methods worth a name: of few others all; of many, those furthest from the ideal on average and nearest.

    Methods that stopped before the others are named anyway.
    """
    others = [curve for curve, ended in zip(curves, stopped(curves)) if curve.part == "other" and not ended]
    if len(others) <= most + nearest + 1:
        return [curve.method["key"] for curve in others]
    gaps = np.array([np.abs(curve.values - ideal) for curve in others])
    known = np.isfinite(gaps)
    far = np.where(known, gaps, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    order = np.argsort(-far, kind="stable")
    many = min(most, int((far > 0.05 * far.max()).sum()))  # where nearly all agree with the ideal, few are worth a name
    return [others[i].method["key"] for i in [*order[:many], *order[len(order) - nearest :]]]


def stopped(curves: Sequence[Curve]) -> np.ndarray:
    """Which lines end before the last request that any of them has a number for: their methods failed there."""
    ends = np.array([np.flatnonzero(np.isfinite(curve.values))[-1] for curve in curves])
    return ends < ends.max(initial=0)


def draw(axes: Any, curves: Sequence[Curve], told: Sequence[str], *, dotted: bool = False, top: float = np.inf) -> None:
    """Lines with their bands, crossed out where a method stopped; dotted where every request has other rows.

    Values above the top of the axis stand there as triangles.
    """
    for curve, ended in zip(curves, stopped(curves)):
        part = "told" if curve.method["key"] in told else curve.part
        known = np.flatnonzero(np.isfinite(curve.values))
        style, above = _LOOKS[part], curve.values[known] > top
        values = np.minimum(curve.values[known], top)
        if part in BANDED and curve.spread[known].any():
            low, high = values - curve.spread[known], values + curve.spread[known]
            axes.fill_between(known, low, high, color=style["color"], alpha=0.16, lw=0, zorder=1.5)
        axes.plot(
            known,
            values,
            color=style["color"],
            lw=style["lw"] * (0.7 if dotted else 1.0),
            ls=(0, (1, 1.8)) if dotted else style.get("ls", "-"),
            marker="o",
            ms=style["ms"],
            mec="white" if style["ms"] > 4 else style["color"],
            mew=0.5,
            clip_on=False,
            zorder=_ORDER[part],
        )
        if above.any():
            axes.plot(known[above], values[above], "^", color=style["color"], ms=6, clip_on=False, zorder=_ORDER[part])
        if ended:
            axes.plot(known[-1], values[-1], "x", color=look.INK, ms=6, mew=1.4, clip_on=False, zorder=4)
            back = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.4}
            name = look.short(look.literal(curve.method["label"]), 24)
            axes.annotate(
                name,
                (known[-1], values[-1]),
                (5, -6),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
                color=look.INK,
                bbox=back,
                zorder=5,
            )


def name_ends(axes: Any, curves: Sequence[Curve], told: Sequence[str], height: float, size: float = 8.5) -> None:
    """Names to the right of a panel whose limits are set, each led to the last point of its line, none on another.

    Lines that stopped have theirs where they stopped.

    Args:
        axes: the panel.
        curves: as drawn.
        told: keys of those to name.
        height: of the panel, in inches.
        size: of the letters, in points.
    """
    chosen = [curve for curve, ended in zip(curves, stopped(curves)) if curve.method["key"] in told and not ended]
    if not chosen:
        return
    ends = [int(np.flatnonzero(np.isfinite(curve.values))[-1]) for curve in chosen]
    points = [(x, min(curve.values[x], axes.get_ylim()[1])) for x, curve in zip(ends, chosen)]
    spots = np.array([axes.transLimits.transform(axes.transScale.transform(point))[1] for point in points])
    spots = apart(np.clip(spots, 0.0, 1.0), 1.25 * size / 72 / height)
    for curve, point, spot in zip(chosen, points, spots):
        focus = curve.part == "focus"
        shade = FOCUS if focus else look.INK
        line = {"arrowstyle": "-", "color": FOCUS if focus else TOLD, "lw": 0.6, "shrinkA": 1, "shrinkB": 1}
        axes.annotate(
            look.short(look.named(curve.method), 24),
            point,
            (1.04, spot),
            textcoords="axes fraction",
            va="center",
            fontsize=size,
            color=shade,
            fontweight="bold" if focus else "normal",
            arrowprops=line | {"relpos": (0.0, 0.5)},
            annotation_clip=False,
        )


def apart(spots: np.ndarray, step: float) -> np.ndarray:
    """Places as near to the wanted ones as can be, in their order and at least a step from each other, inside [0, 1].

    Example:
        >>> apart(np.array([0.5, 0.5, 0.0]), 0.2).round(3).tolist()
        [0.4, 0.6, 0.0]
    """
    order = np.argsort(spots, kind="stable")
    ladder = step * np.arange(len(spots))
    found = np.empty(len(spots))
    found[order] = np.clip(isotonic_regression(spots[order] - ladder).x, 0.0, max(1.0 - ladder[-1], 0.0)) + ladder
    return found


def requests(axes: Any, words: Sequence[str], width: float, size: float = 8.5) -> None:
    """The words of the requests below an axis, those that forget in red; turned where they would not fit side by side.

    Args:
        axes: the panel.
        words: one a request.
        width: of one request, in inches.
        size: of the letters, in points.
    """
    letter = 0.6 * size / 72  # inches
    long = [_shortened(word) for word in words]
    broken = [word.replace("+", "\n+") for word in long]
    fits = lambda texts: max(len(line) for text in texts for line in text.split("\n")) * letter < 0.98 * width
    if fits(long) or fits(broken):
        axes.set_xticks(range(len(words)), long if fits(long) else broken, fontsize=size, linespacing=1.0)
    else:
        axes.set_xticks(range(len(words)), long, fontsize=size, rotation=45, ha="right", rotation_mode="anchor")
    for text, word in zip(axes.get_xticklabels(), words):
        text.set_color(look.RED if "U" in word else look.INK)
    axes.set_xlim(-0.35, len(words) - 0.65)


def _shortened(word: str) -> str:
    parts = [part.strip() for part in word.split("+")]
    cut = [f"{part[: part.find(',', part.find(',') + 1)]},…}}" if part.count(",") > 2 else part for part in parts]
    return look.literal("+".join(cut))
