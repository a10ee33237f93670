"""How the loss rises around what each method found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look

MOST = 6  # panels, or lines of one figure


def lora_slices(
    evidence: Mapping[str, np.ndarray], methods: Sequence[Mapping[str, Any]], *, seeds: str = "1 seed"
) -> Figure:
    """One line a method: the training loss along a filter-normalised random direction, less its value in the middle."""
    figure = Figure(figsize=(1.35 * look.WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    palette = look.colours([f"m{i}" for i in range(len(methods))]).values()
    for method, colour in zip(methods, palette):
        offsets, line = (evidence[f"{method['key']}/{part}"] for part in ("offsets", "line"))
        style = "-" if method["settings"].get("objective") == "flat" else "--"
        axes.plot(offsets, line - line[len(line) // 2], style, color=colour, label=look.literal(method["label"]))
    axes.set_xlabel("step along the direction, in norms of the filters")
    axes.set_ylabel("rise of the training loss, nats")
    look.plain(axes, "both")
    look.legend(figure, axes, 2)
    look.title(figure, f"Loss around the merged weights ({seeds})")
    return figure


def lora_planes(
    evidence: Mapping[str, np.ndarray], methods: Sequence[Mapping[str, Any]], *, seeds: str = "1 seed"
) -> Figure:
    """A panel a method: the training loss over two directions, in one colour scale."""
    chosen = [method for method in methods if f"{method['key']}/plane" in evidence][:MOST]
    figure = Figure(figsize=(3.1 * len(chosen) + 0.8, 3.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(chosen), sharex=True, sharey=True))
    planes = [evidence[f"{method['key']}/plane"] for method in chosen]
    high = float(f"{np.quantile(np.concatenate([plane.ravel() for plane in planes]), 0.98):.1g}") or 1.0
    for axes, method, plane in zip(panels, chosen, planes):
        offsets = evidence[f"{method['key']}/offsets"]
        levels = np.linspace(0, high, 13)
        picture = axes.contourf(offsets, offsets, plane, levels, cmap="magma_r", extend="max")
        axes.contour(offsets, offsets, plane, levels[::2], colors="white", linewidths=0.5)
        axes.set_title(look.literal(method["label"]), fontsize=10)
        axes.set_aspect("equal")
        axes.set_xlabel("first direction")
    panels[0].set_ylabel("second direction")
    figure.colorbar(picture, ax=list(panels), shrink=0.85, format="%.3g").set_label("training loss, nats")
    look.title(figure, f"Loss over two random directions of the merged weights ({seeds})")
    return figure
