"""One run from the inside: step by step, and the saliency mask layer by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from clujax.reports.figures import look


def trajectory(evidence: Mapping[str, Any], *, seeds: str = "1 seed") -> Figure:
    """The run step by step: losses, norms of the gradient's parts, their cosines, effective sample size."""
    step = np.asarray(evidence["trajectory_step"])
    series = {
        key.removeprefix("trajectory_"): np.asarray(evidence[key], float) for key in evidence if "trajectory_" in key
    }
    tags = {"forget": "forgetting", "remain": "remaining"}
    tags |= {"forget_loss": "forgotten rows", "remain_loss": "remaining rows"}
    panels = [
        ("mean loss (nats)", {k: tags.get(k, k.removesuffix("_loss")) for k in series if k.endswith("_loss")}, "log"),
        ("norm of\ngradient part", {k: tags.get(k[5:], k[5:]) for k in series if k.startswith("norm_")}, "log"),
        ("cosine", {k: k[7:].replace("_", " · ") for k in series if k.startswith("cosine_")}, "linear"),
        ("effective\nsample size", {k: "" for k in series if k == "effective_sample_size"}, "linear"),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(look.WIDTH, 0.9 + 1.75 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines, scale) in zip(grid, panels):
        for j, (key, label) in enumerate(lines.items()):
            values = series[key]
            if key.startswith("cosine_"):
                values = np.where(values == 0, np.nan, values)  # one of the two parts vanished: there is no angle
            shade = _PARTS.get(key.removeprefix("norm_").removesuffix("_loss"), _CYCLE[j % len(_CYCLE)])
            axes.plot(
                step,
                np.where(values > 0, values, np.nan) if scale == "log" else values,
                color=shade,
                lw=1.5,
                ls=("-", "--", "-.", ":")[j % 4],
                marker="." if len(step) <= 60 else None,  # a value between two gaps would be no line at all
                label=label,
            )
        axes.set_yscale(scale)
        if scale == "log":
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if high < 30 * low else (1, 3) if high < 1e3 * low else (1,))
            )
            axes.yaxis.set_major_formatter(FuncFormatter(look.tick))
            axes.set_yticks([], minor=True)
        axes.set_ylabel(title, fontsize=9)
        if title == "cosine":
            axes.set_ylim(-1.05, 1.05)
            axes.axhline(0, color="#888888", lw=0.8)
        elif title.startswith("effective"):
            axes.set_ylim(bottom=0)
        if any(lines.values()):
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1.0),
                ncols=3 if len(lines) <= 3 else 2,
                frameon=False,
                fontsize=8.5,
                borderpad=0.1,
                handlelength=2.2,
                columnspacing=1.2,
            )
        look.plain(axes, "y")
    grid[-1].set_xlabel("step")
    grid[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    look.title(figure, f"The run, step by step ({seeds})")
    return figure


_PARTS = {"forget": "#A3003F", "remain": "#0072B2", "saliency": "#E69F00"}


_CYCLE = ("#5F5F5F", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#7A5195")


def mask_density(evidence: Mapping[str, Any], *, seeds: str = "1 seed", most: int = 40) -> Figure:
    """Share of each parameter leaf that the saliency mask lets move."""
    leaves, density = [str(leaf) for leaf in evidence["mask_leaf"]][:most], np.asarray(evidence["mask_density"], float)
    left = len(density) - len(leaves)
    figure = Figure(figsize=(look.WIDTH, 1.1 + 0.24 * len(leaves)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(leaves)), 100 * density[: len(leaves)], color=look.PALETTE["sfron"], height=0.7)
    axes.set_yticks(range(len(leaves)), [look.short(leaf, 28) for leaf in leaves], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("weights that the mask lets move (%)" + (f"; {left} more leaves not shown" if left > 0 else ""))
    look.plain(axes)
    look.title(figure, f"Saliency mask by layer ({seeds})")
    return figure
