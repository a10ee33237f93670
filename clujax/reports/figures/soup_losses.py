"""What soups reach on held-out and on test rows, and how they got there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look

SIDES = (("held", "held-out rows", "o", "#8A8A8A"), ("test", "test rows", "D", "#0072B2"))


def soup_losses(record: Mapping[str, Any], seeds: str) -> Figure:
    """A row a method: NLL on held-out and on test rows, above the range of the pool's models."""
    methods = record["methods"]
    figure = Figure(figsize=(1.35 * look.WIDTH, 0.34 * len(methods) + 1.9), layout="constrained")
    axes = figure.subplots()
    models = [each["test/nll"] for each in record["members"]]
    axes.axvspan(min(models), max(models), color="#EEEEEE", label="models of the pool, test rows")
    for name, label, marker, colour in SIDES:
        values = [method["values"][f"{name}/nll"] for method in methods]
        spread = [method["std"].get(f"{name}/nll", np.nan) for method in methods]
        bars = None if np.isnan(spread).all() else spread
        axes.errorbar(values, range(len(methods)), xerr=bars, fmt=marker, ms=5.5, capsize=2, color=colour, label=label)
    axes.set_yticks(range(len(methods)), [look.literal(method["label"]) for method in methods])
    axes.invert_yaxis()
    axes.set_xlabel("NLL, nats")
    look.plain(axes, "both")
    look.legend(figure, axes, 3)
    look.title(figure, f"What each soup reaches ({seeds})")
    return figure


def soup_descents(methods: Sequence[Mapping[str, Any]], batches: int, seeds: str) -> Figure:
    """The mean held-out loss of every pass over the batches, of every method that learns."""
    figure = Figure(figsize=(1.35 * look.WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    palette = look.colours([f"m{i}" for i in range(len(methods))]).values()
    for number, (method, colour) in enumerate(zip(methods, palette)):
        losses = np.asarray(method["losses"])
        whole = len(losses) % batches == 0
        passes = losses.reshape(-1, batches).mean(1) if whole else losses  # Gauss–Newton records a loss a step
        style = ("-", "--", ":")[number // 6 % 3]
        steps = np.arange(1, len(passes) + 1)
        axes.plot(steps, passes, style, marker=".", lw=1.4, color=colour, label=look.literal(method["label"]))
    axes.set_xlabel("pass over the held-out rows")
    axes.set_ylabel("held-out loss, nats")
    look.plain(axes, "both")
    look.legend(figure, axes, 2)
    look.title(figure, f"Learning the weights, pass by pass ({seeds})")
    return figure
