"""What each further support point buys."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look


def regression_growth(
    history: Sequence[Mapping[str, Any]],
    truth: np.ndarray,
    methods: Sequence[Mapping[str, Any]],
    *,
    rows: int,
    seeds: str = "1 seed",
) -> Figure:
    """Test score after every growth round and after the last, long one; other methods at the rows that they keep."""
    classes = truth.ndim == 2
    key, label = ("accuracy", "test accuracy, %") if classes else ("r2", "test R²")
    size = [each["n"] for each in history]
    if classes:
        score = [100 * each["watched_accuracy"] for each in history]
    else:
        score = [1 - each["watched_mse"] / np.var(truth) for each in history]
    figure = Figure(figsize=(1.35 * look.WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    rounds = len(size) - 1 if len(size) > 1 and size[-1] == size[-2] else len(size)
    if rounds > 1:
        axes.plot(size[:rounds], score[:rounds], "o-", ms=4, color=look.PALETTE["sfron"], label="LAB-RBF, growing")
    axes.plot(size[-1:], score[-1:], "D", ms=7, color=look.PALETTE["sfron"], mec="white", label="LAB-RBF, final")
    others = [each for each in methods if each["key"] != "lab" and key in each["values"]]
    palette = dict(zip([each["key"] for each in others], look.colours([f"m{i}" for i in range(len(others))]).values()))
    for marker, each in zip(look.MARKERS * 3, others):
        kept, value = each["values"].get("support", 0), each["values"][key]
        if kept:
            axes.plot([kept], [value], marker, color=palette[each["key"]], label=look.literal(each["label"]))
        else:
            axes.axhline(value, color=palette[each["key"]], lw=1, ls=":", label=look.literal(each["label"]))
    # An early round far below all else would press the rest into one line.
    values = np.array([*score, *(each["values"][key] for each in others)])
    low, high = np.quantile(values, 0.1), values.max()
    margin = max(0.15 * (high - low), 1e-4)
    axes.set_ylim(max(values.min(), low - 2 * margin) - margin / 2, high + margin / 2)
    axes.set_xlabel(f"support points, or rows kept (of {rows} training rows)")
    axes.set_ylabel(label)
    look.plain(axes, "both")
    look.legend(figure, axes, 3)
    look.title(figure, f"Score against support points ({seeds}; others: mean)")
    return figure
