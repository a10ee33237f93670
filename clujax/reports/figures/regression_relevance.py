"""Which features matter, and where."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look

MOST = 30  # features that have a row each


def regression_relevance(
    evidence: Mapping[str, Any], features: Sequence[str], target: str, *, seeds: str = "1 seed"
) -> Figure:
    """|θ| of every support point (columns in the order of their target) and feature, with the mean weighted by |α|."""
    theta, weight = np.abs(evidence["theta"]), evidence["relevance"]
    target_of = evidence["support_target"]
    order = np.argsort(target_of if target_of.ndim == 1 else target_of.argmax(-1), kind="stable")
    ranked = np.argsort(-weight)[:MOST] if len(features) > MOST else np.arange(len(features))
    height = 1.4 + 0.24 * len(ranked)
    figure = Figure(figsize=(look.WIDE, max(3.0, height)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    picture = left.imshow(
        theta[order][:, ranked].T, aspect="auto", cmap="magma_r", interpolation="nearest", vmin=0,
        vmax=np.quantile(theta[:, ranked], 0.98) or 1,
    )  # fmt: skip
    size = 9 if len(ranked) <= 20 else 8
    left.set_yticks(range(len(ranked)), [look.literal(look.short(features[i], 22)) for i in ranked], fontsize=size)
    left.set_xlabel(look.literal(f"support points, from low to high {target}"))
    right.barh(range(len(ranked)), weight[ranked], color=look.PALETTE["sfron"])
    right.set_xlabel("mean |θ| weighted by |α|")
    look.plain(right)
    figure.colorbar(picture, ax=left, location="left", shrink=0.8, pad=0.01).set_label(
        "|θ| (features scaled to [−1, 1])"
    )
    some = f", the {MOST} most relevant of {len(features)} features" if len(features) > MOST else ""
    look.title(figure, f"Relevance map{some} ({seeds})")
    return figure
