"""Where the support points lie and how far each one reaches, over two features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from clujax.reports.figures import look


def regression_support(
    evidence: Mapping[str, Any], features: Sequence[str], target: str, *, seeds: str = "1 seed"
) -> Figure:
    """Training rows in grey; each support point coloured by its target with an ellipse of half axes 1/|θ|."""
    rows, points = evidence["rows_pair"], evidence["support_pair"]
    colour = _scalar(evidence["support_target"])
    figure = Figure(figsize=(1.35 * look.WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*rows.T, s=6, color=look.FAINT, lw=0, zorder=1, label="training rows")
    span = np.ptp(np.concatenate([rows, points]), axis=0)
    span[span == 0] = 1
    # A bandwidth near zero reaches everywhere: twice the picture says so.
    reach = np.minimum(1 / np.maximum(np.abs(evidence["theta_pair"]), 1e-12), 2 * span)
    norm = (colour.min(), colour.max() if np.ptp(colour) > 0 else colour.min() + 1)
    ellipses = EllipseCollection(
        *(2 * reach).T, np.zeros(len(points)), units="xy", offsets=points, transOffset=axes.transData, facecolor="none",
        cmap="viridis", lw=0.7, alpha=0.45, zorder=2,
    )  # fmt: skip
    ellipses.set_array(colour)
    ellipses.set_clim(*norm)
    axes.add_collection(ellipses)
    dots = axes.scatter(*points.T, c=colour, vmin=norm[0], vmax=norm[1], s=22, ec="white", lw=0.5, zorder=3)
    low, high = np.minimum(rows.min(0), points.min(0)), np.maximum(rows.max(0), points.max(0))
    axes.set_xlim(low[0] - 0.08 * span[0], high[0] + 0.08 * span[0])
    axes.set_ylim(low[1] - 0.08 * span[1], high[1] + 0.08 * span[1])
    first, second = (look.literal(features[i]) for i in evidence["pair"])
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    look.plain(axes, "both")
    figure.colorbar(dots, ax=axes, shrink=0.85).set_label(look.literal(target))
    look.title(figure, f"{len(points)} support points; ellipses: where a kernel falls to 1/e ({seeds})")
    return figure


def _scalar(target: np.ndarray) -> np.ndarray:
    return target if target.ndim == 1 else target.argmax(-1).astype(float)
