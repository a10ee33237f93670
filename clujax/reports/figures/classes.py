"""What the networks say class by class, and image by image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look


def class_accuracy(
    evidence: Mapping[str, Any], labels: Mapping[str, str], *, seeds: str = "1 seed", most: int = 30
) -> Figure:
    """Accuracy by class for each model, on test rows and on forgotten rows; of many classes, those that differ most."""
    keys = [str(key) for key in evidence["class_accuracy_models"]]
    names = look.names(evidence, evidence["class_accuracy"].shape[1])
    panels = [("rows never seen (test)", np.asarray(evidence["class_accuracy"], float))]
    if "class_accuracy_forget" in evidence:
        panels.append(("rows to be forgotten", np.asarray(evidence["class_accuracy_forget"], float)))
    kept = [_widest(values, most) for _, values in panels]
    heights = [len(rows) + 1 for rows in kept]
    figure = Figure(figsize=(look.WIDTH, 1.3 + 0.26 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    shades = look.colours([*labels, *keys])
    offsets = np.linspace(-0.22, 0.22, len(keys)) if len(keys) > 1 else [0.0]
    for axes, (title, values), rows in zip(grid, panels, kept):
        y = np.arange(len(rows))
        axes.hlines(
            y, np.nanmin(values[:, rows], axis=0), np.nanmax(values[:, rows], axis=0), color=look.FAINT, lw=4, zorder=1
        )
        for j, key in enumerate(keys):
            axes.plot(
                values[j, rows],
                y + offsets[j],
                look.MARKERS[j],
                color=shades[key],
                ms=6,
                ls="",
                label=labels.get(key, key),
                markeredgecolor="white",
                markeredgewidth=0.5,
                zorder=3,
                clip_on=False,
            )
        axes.set_yticks(y, [names[row] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        left = int(np.isfinite(values).any(axis=0).sum()) - len(rows)
        axes.set_title(
            title + (f"; {left} classes that differ less not shown" if left else ""), fontsize=10, loc="left"
        )
        axes.set_ylabel("class", fontsize=9)
        look.plain(axes)
    low = min(np.nanmin(values) for _, values in panels)
    grid[0].set_xlim(max(0.0, low - 0.06 * (100 - low)), 100)
    grid[-1].set_xlabel("accuracy (%)")
    look.legend(figure, grid[0], len(keys))
    look.title(figure, f"Accuracy by class ({seeds})")
    return figure


def belief_grid(
    evidence: Mapping[str, Any], labels: Mapping[str, str], *, seeds: str = "1 seed", rows: int = 12
) -> Figure:
    """Forgotten images, and how each model spreads its belief over the classes; the true class in colour."""
    keys = [str(key) for key in evidence["belief_models"]]
    belief, truth = np.asarray(evidence["belief"], float)[:, :rows], np.asarray(evidence["labels"])[:rows]
    images, names = np.asarray(evidence["images"])[:rows], look.names(evidence, belief.shape[2])
    shades, count = look.colours([*labels, *keys]), len(images)
    figure = Figure(figsize=(look.WIDTH, 1.1 + 0.8 * count), layout="constrained")
    grid = figure.subplots(count, 1 + len(keys), squeeze=False, width_ratios=[1] + [1.45] * len(keys))
    classes = np.arange(belief.shape[2])
    names, size = [look.short(name, 9) for name in names], 9 if max(map(len, names)) <= 5 else 7.5
    for i in range(count):
        picture = images[i] if images[i].shape[-1] == 3 else images[i][..., 0]
        grid[i, 0].imshow(picture, cmap="gray", vmin=images.min(), vmax=images.max(), interpolation="nearest")
        grid[i, 0].set_axis_off()
        grid[i, 0].set_title(names[truth[i]], fontsize=size, pad=3)
        for j, key in enumerate(keys):
            axes = grid[i, j + 1]
            tints = ["#BDBDBD"] * len(classes)
            tints[truth[i]] = shades[key]
            axes.bar(classes, belief[j, i], width=0.85, color=tints)
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 1], ["0", "1"] if j == 0 else ["", ""], fontsize=8)
            guess = belief[j, i].argmax()
            wrong = guess != truth[i]
            axes.set_title(
                f"{names[guess]}: {100 * belief[j, i, guess]:.0f} %",
                fontsize=size,
                pad=3,
                color="#A3003F" if wrong else look.INK,
                fontweight="bold" if wrong else "normal",
            )
            short = len(classes) <= 10 and all(len(name) <= 2 for name in names)
            axes.set_xticks(
                classes if short else [], names if short and i == count - 1 else [""] * len(classes) * short
            )
            axes.tick_params(length=0, labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    for j, key in enumerate(keys):
        grid[0, j + 1].annotate(
            labels.get(key, key),
            (0.5, 1),
            (0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=10,
            fontweight="bold",
            color=shades[key],
        )
    figure.supxlabel("bars: probability of each class (true one coloured)", fontsize=9)
    look.title(figure, f"Belief about forgotten images ({seeds})")
    return figure


def _widest(values: np.ndarray, most: int) -> np.ndarray:
    present = np.flatnonzero(np.isfinite(values).any(axis=0))
    spread = np.nanmax(values[:, present], axis=0) - np.nanmin(values[:, present], axis=0)
    return np.sort(present[np.argsort(-spread, kind="stable")[:most]])
