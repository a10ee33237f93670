"""Predicted against true, and what is left over."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look


def regression_fit(evidence: Mapping[str, Any], target: str, *, seeds: str = "1 seed") -> Figure:
    """Test rows: predicted against true with the diagonal, and the residuals over the prediction."""
    truth, found = evidence["truth"], evidence["prediction"]
    figure = Figure(figsize=(look.WIDE, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    dots = {"s": 14, "alpha": 0.6, "lw": 0, "color": look.PALETTE["sfron"]}
    ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
    left.plot(ends, ends, color=look.SOFT, lw=1, ls="--")
    left.scatter(truth, found, **dots)
    left.set_xlabel(look.literal(f"true {target}"))
    left.set_ylabel(look.literal(f"predicted {target}"))
    right.axhline(0, color=look.SOFT, lw=1, ls="--")
    right.scatter(found, found - truth, **dots)
    right.set_xlabel(look.literal(f"predicted {target}"))
    right.set_ylabel("predicted − true")
    for axes in (left, right):
        look.plain(axes, "both")
    rmse = np.sqrt(np.mean((found - truth) ** 2))
    look.title(figure, f"Predicted against true on {len(truth)} test rows, RMSE {rmse:.3g} ({seeds})")
    return figure
