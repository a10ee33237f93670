"""The scores that a membership attack reads, in full for a few networks and in short for all of them."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import compare
from clujax.reports.figures import look


def membership_evidence(evidence: Mapping[str, Any], labels: Mapping[str, str], *, seeds: str = "1 seed") -> Figure:
    """Histograms of the score that the attack reads: forgotten, remaining and unseen rows, one panel per model."""
    keys = [str(key) for key in evidence["membership_models"]]
    score, unit = (
        str(evidence.get(f"membership_{part}", default)) for part, default in (("score", "score"), ("unit", ""))
    )
    groups = {name: np.asarray(evidence[f"membership_{name}"], float) for name in ("remain", "test", "forget")}
    values = np.concatenate([group.ravel() for group in groups.values()])
    finite = values[np.isfinite(values)]
    # Entropies and losses crowd at zero: powers of ten tell confident rows apart, the first bin takes all below.
    logarithmic = finite.min() >= 0 and np.median(finite) < 0.1 * max(finite.max(), 1e-12)
    if logarithmic:
        low = max(np.percentile(finite, 2), finite.max() * 1e-6, 1e-12)
        edges = np.geomspace(low, max(finite.max(), 10 * low), 31)
    else:
        edges = np.linspace(finite.min(), max(finite.max(), finite.min() + 1e-9), 31)
    figure = Figure(figsize=(look.WIDTH, 1.2 + 1.35 * len(keys)), layout="constrained")
    grid = figure.subplots(len(keys), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    called = evidence.get("membership_called_member")
    for j, (axes, key) in enumerate(zip(grid, keys)):
        for name, shade, style, label in _GROUPS:
            share = np.histogram(np.clip(groups[name][j], edges[0], edges[-1]), edges)[0] * 100 / groups[name][j].size
            fill = style == "fill"
            how = {"fill": True, "alpha": 0.45} if fill else {"ls": style, "lw": 2.0 if style == "-" else 1.4}
            axes.stairs(share, edges, color=shade, label=label, **how)
        told = "" if called is None else f": attack calls {called[j]:.0f} % of forgotten rows members"
        axes.set_title(labels.get(key, key) + told, fontsize=10, loc="left")
        look.plain(axes)
    if logarithmic:
        grid[0].set_xscale("log")
    grid[0].set_xlim(edges[0], edges[-1])
    tail = ", log scale; first bin: all below" if logarithmic else ""
    grid[-1].set_xlabel(f"{score}{f' ({unit}{tail})' if unit else tail}")
    figure.supylabel("share of rows (%)", fontsize=10)
    look.legend(figure, grid[0], 3)
    look.title(figure, f"What a membership attack sees ({seeds})")
    return figure


_GROUPS = (
    ("remain", "#56B4E9", "fill", "remaining"),
    ("test", "#333333", "--", "never seen"),
    ("forget", "#A3003F", "-", "forgotten"),
)


def score_distributions(
    request: Mapping[str, Any], evidence: Mapping[str, Any], *, seeds: str = "1 seed", bins: int = 48
) -> Figure:
    """The attack's score of the forgotten rows under every method, beside the quartiles of the retrained network.

    One strip a method: its histogram, the middle half as a bar, the median as a dot. The retrained network comes first,
    then the methods by average distance. Scores below the axis are counted in its first bin.
    """
    scores = dict(zip(map(str, evidence["scores_models"]), np.asarray(evidence["scores_forget"], float)))
    scores = {key: row[np.isfinite(row)] for key, row in scores.items()}
    chosen = [each for each in compare.ranked(request, request["methods"]) if len(scores.get(each["key"], ()))]
    chosen.sort(key=lambda each: each["key"] != request["reference"])
    rows = [scores[each["key"]] for each in chosen]
    edges, logarithmic = _bins(np.concatenate(rows), bins)
    figure = Figure(figsize=(look.WIDTH, 1.35 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log" if logarithmic else "linear")
    if chosen[0]["key"] == request["reference"]:
        low, middle, high = np.percentile(np.clip(rows[0], edges[0], edges[-1]), (25, 50, 75))
        axes.axvspan(low, high, color=look.PALETTE["retrain"], alpha=0.16, lw=0, zorder=0)
        axes.axvline(middle, color=look.PALETTE["retrain"], lw=0.9, zorder=0.5)
    for y, (method, row) in enumerate(zip(chosen, rows)):
        _strip(axes, y, np.clip(row, edges[0], edges[-1]), edges, look.role(request, method), compare.collapsed(method))
    look.plain(axes)
    look.rows(axes, request, chosen)
    axes.set_xlim(edges[0], edges[-1])
    word, unit = (
        str(evidence.get(f"membership_{part}", default))
        for part, default in (("score", "prediction entropy"), ("unit", "nats"))
    )
    tail = ", ".join(filter(None, (unit, "log scale" if logarithmic else "")))
    axes.set_xlabel(look.literal(f"{word} ({tail})" if tail else word), fontsize=9.5)
    axes.minorticks_off()
    notes = "green: middle half of the retrained network; bar: middle half; dot: median"
    notes += "; ×: collapsed" if any(map(compare.collapsed, chosen)) else ""
    figure.supxlabel(textwrap.fill(notes, 62), fontsize=8.5)
    look.title(figure, f"Scores of forgotten rows ({seeds})")
    return figure


def _bins(values: np.ndarray, bins: int) -> tuple[np.ndarray, bool]:
    low, high = float(values.min()), float(values.max())
    first = max(float(np.percentile(values, 1)), 1e-6 * high)
    if low >= 0 and 0 < first < 0.1 * high:
        # Six decades tell confident rows apart; where nearly all rows lie higher, the axis begins with them.
        return np.geomspace(first, high, bins + 1), True
    return np.linspace(low, max(high, low + 1e-9), bins + 1), False


def _strip(axes: Any, y: int, row: np.ndarray, edges: np.ndarray, shade: str, collapsed: bool) -> None:
    share = np.histogram(row, edges)[0] / len(row)
    # The tallest bin of each strip is as high as the strip: shapes are compared, not heights.
    height = 0.62 * share / share.max()
    axes.stairs(y + 0.3 - height, edges, baseline=y + 0.3, fill=True, color=shade, alpha=0.32, lw=0, zorder=2)
    low, middle, high = np.percentile(row, (25, 50, 75))
    axes.plot([low, high], [y + 0.3, y + 0.3], color=shade, lw=2.6, solid_capstyle="butt", zorder=3)
    mark = {"marker": "x", "ms": 5.5, "mew": 1.6} if collapsed else {"marker": "o", "ms": 5, "mec": "white", "mew": 0.6}
    axes.plot(middle, y + 0.3, color=shade, zorder=4, clip_on=False, **mark)
