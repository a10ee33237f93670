"""Utility against privacy: how well each method still works, and what an attack still learns from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import compare, results
from clujax.reports.figures import labels, look


def plane(request: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The two metrics that span the figure, or None where the request lacks one or a second method that has both."""
    chosen = request.get("noise_ellipse") or {}
    known = {metric["key"]: metric for metric in request["metrics"]}
    keys = chosen.get("x", "TA"), chosen.get("y", "MIA")
    if not set(keys) <= set(known) or len(_placed(request, keys)) < 2:
        return None
    return known[keys[0]], known[keys[1]]


def tradeoff(request: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """One point a method, with the spread over seeds; a method that lies far out stands at the border with its values.

    The retrained networks and the ellipse of two standard deviations around them show what chance alone does.
    """
    axis = plane(request)
    if axis is None:
        raise ValueError(
            "a trade-off needs two methods with TA and MIA, or with the metrics that noise_ellipse names as x and y."
        )
    keys = axis[0]["key"], axis[1]["key"]
    methods = _placed(request, keys)
    points = np.array([[each["values"][key] for key in keys] for each in methods])
    cloud = request.get("noise_ellipse") or {}
    many = len(methods) > 9
    figure = Figure(figsize=(look.WIDE, 6.6) if many else (look.WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    _chance(axes, cloud)
    fixed = (request["reference"], "original")
    core = np.array([p for each, p in zip(methods, points) if each["key"] in fixed] + _extent(cloud))
    low, high = _window(points[[not compare.collapsed(each) for each in methods]], core.reshape(-1, 2))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    shown = np.clip(points, low + 0.012 * (high - low), high - 0.012 * (high - low))
    away = (points < low) | (points > high)
    for method, point, spot, out in zip(methods, points, shown, away):
        _mark(axes, request, method, keys, point, spot, out)
    look.plain(axes, "both")
    axes.set_xlabel(f"{axis[0]['label']}, {keys[0]} ({axis[0]['unit']})".replace(" ()", ""), fontsize=9.5)
    axes.set_ylabel(f"{axis[1]['label']}, {keys[1]} ({axis[1]['unit']})".replace(" ()", ""), fontsize=9.5)
    _legend(figure, axes, methods, cloud, bool(away.any()))
    look.title(figure, f"Kept and given away ({look.count(seeds)})")
    texts = [
        axes.text(*spot, _name(method, axis, point, out), fontsize=8.5 if many else 8, ha="center", va="center")
        for method, point, spot, out in zip(methods, points, shown, away)
    ]
    for text, method in zip(texts, methods):
        text.set(color=look.ink(request, method), zorder=6)
        text.set(fontweight="bold" if method is compare.focus(request) else "normal", in_layout=False)
    bars = [spot + _spread(method, keys) * side for method, spot in zip(methods, shown) for side in _ENDS]
    labels.place(axes, shown, texts, np.array([*bars, *(cloud.get("points") or ())], float).reshape(-1, 2))
    return figure


def _placed(request: Mapping[str, Any], keys: Sequence[str]) -> list[Mapping[str, Any]]:
    def finite(method: Mapping[str, Any]) -> bool:
        values = [method["values"].get(key) for key in keys]
        return None not in values and bool(np.isfinite(values).all())

    return [each for each in request["methods"] if finite(each)]


def _chance(axes: Any, cloud: Mapping[str, Any]) -> None:
    shade = look.PALETTE["retrain"]
    if cloud.get("axes") and cloud.get("centre"):
        (first, second), centre = np.array(cloud["axes"], float), np.array(cloud["centre"], float)
        turn = np.linspace(0, 2 * np.pi, 181)[:, None]
        # The half axes are vectors of data coordinates: the curve is right whatever the scales of the two axes.
        curve = centre + np.cos(turn) * first + np.sin(turn) * second
        axes.fill(*curve.T, color=shade, alpha=0.14, lw=0, zorder=0.5)
        axes.plot(*curve.T, color=shade, lw=1.0, zorder=0.6)
    if cloud.get("points"):
        axes.plot(*np.array(cloud["points"], float).T, ".", color=shade, ms=4, alpha=0.75, zorder=2)


def _extent(cloud: Mapping[str, Any]) -> list[np.ndarray]:
    found = list(np.array(cloud.get("points") or np.zeros((0, 2)), float))
    if cloud.get("axes") and cloud.get("centre"):
        reach = np.hypot(*np.array(cloud["axes"], float))
        found += [np.array(cloud["centre"]) - reach, np.array(cloud["centre"]) + reach]
    return found


def _window(points: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners that hold all of `core`, and of `points` those that do not lie far from the middle half."""
    first, third = np.percentile(points if len(points) else core, (25, 75), axis=0)
    # A few points make poor quartiles: more of them is shown.
    reach = 2.0 if len(points) > 12 else 3.0
    fence = np.where(third > first, reach * (third - first), np.inf)
    inside = np.where((points >= first - fence) & (points <= third + fence), points, np.nan)
    both = np.concatenate([inside, core])
    low, high = np.nanmin(both, axis=0), np.nanmax(both, axis=0)
    margin = np.maximum(0.09 * (high - low), 1e-3 + 1e-3 * np.abs(high))
    return low - margin, high + margin


def _mark(axes, request, method, keys, point, spot, out):
    shade, ruined = look.role(request, method), compare.collapsed(method)
    if out.any():
        sign = "<>"[int(point[0] > spot[0])] if out[0] else "v^"[int(point[1] > spot[1])]
        axes.plot(*spot, sign, ms=7, mfc="none" if ruined else shade, mec=shade, mew=1.3, zorder=5, clip_on=False)
        return
    spread = _spread(method, keys)
    axes.errorbar(*spot, xerr=spread[0], yerr=spread[1], ecolor=shade, elinewidth=0.7, alpha=0.55, fmt="none", zorder=3)
    mark = "x" if ruined else "D" if results.retrained(request, method) else "s" if method["key"] == "original" else "o"
    axes.plot(*spot, mark, color=shade, ms=6.5, mec=shade if ruined else "white", mew=1.6 if ruined else 0.6, zorder=5)


_ENDS = np.array([(-1, 0), (-0.5, 0), (0.5, 0), (1, 0), (0, -1), (0, -0.5), (0, 0.5), (0, 1)])


def _spread(method: Mapping[str, Any], keys: Sequence[str]) -> np.ndarray:
    spread = [(method.get("std") or {}).get(key) for key in keys]
    return np.array([value if value is not None and np.isfinite(value) else 0.0 for value in spread])


def _name(method: Mapping[str, Any], axis: Sequence[Mapping[str, Any]], point: np.ndarray, out: np.ndarray) -> str:
    values = [
        f"{metric['key']} {results.number(value, metric['unit'])}"
        for metric, value, far in zip(axis, point, out)
        if far
    ]
    return look.named(method) + look.literal(f" ({', '.join(values)})" if values else "")


def _legend(figure: Figure, axes: Any, methods: Sequence[Any], cloud: Mapping[str, Any], away: bool) -> None:
    shade = look.PALETTE["retrain"]
    if cloud.get("points"):
        axes.plot([], [], ".", color=shade, label=f"{len(cloud['points'])} retrained networks")
    if cloud.get("axes") and cloud.get("centre"):
        axes.fill(np.nan, np.nan, color=shade, alpha=0.3, label="two standard deviations of them")
    if any(map(compare.collapsed, methods)):
        axes.plot([], [], "x", color=look.SOFT, mew=1.6, label="collapsed")
    if away:
        axes.plot([], [], ">", color=look.SOFT, label="beyond the axis")
    if any(method.get("std") for method in methods):
        axes.plot([], [], "-", color=look.SOFT, lw=0.8, label="spread over seeds")
    look.legend(figure, axes, 6)
