"""One function per figure, from arrays to a matplotlib Figure; sized so that a phone shows them at full width."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from clujax.reports import results

DPI = 160
_WIDTH = 4.5  # inches: 10 pt text is still 10 px high where a 390 px screen shows a figure at full width

# Okabe and Ito's palette, told apart by every common kind of colour vision; the three models of a story come first.
PALETTE = {
    "original": "#E69F00",
    "sfron": "#0072B2",
    "retrain": "#009E73",
    "retrain_again": "#66C2A5",
    "finetune": "#CC79A7",
    "gradient_ascent": "#D55E00",
    "random_label": "#56B4E9",
    "salun": "#7A5195",
}
_SPARE = ("#8C6D31", "#5F5F5F", "#B0407A", "#3C7A89", "#A3A500", "#404080")
_MARKERS = ("s", "o", "D", "^", "v", "P", "X", "*")
_INK, _FAINT = "#222222", "#D9D9D9"


def colours(keys: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in every figure of a run.

    Example:
        >>> colours(["original", "mine"])
        {'original': '#E69F00', 'mine': '#8C6D31'}
    """
    others = [key for key in dict.fromkeys(keys) if key not in PALETTE and "retrain" not in key]
    spare = {key: _SPARE[i % len(_SPARE)] for i, key in enumerate(others)}
    return {key: PALETTE.get(key) or spare.get(key) or PALETTE["retrain_again"] for key in keys}


def draw(result: Mapping[str, Any], request: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure that the evidence of a request allows, by name, in the order of the story."""
    labels = {method["key"]: method["label"] for method in request["methods"]}
    seeds = len(result.get("seeds") or [0])
    one = "1 seed" if seeds == 1 else f"1 of {seeds} seeds"
    if seeds > 1 and "seed" in evidence:
        one = f"seed {evidence['seed']} of {seeds}"
    figures = {}
    if _compared(request):
        figures["gaps"] = gap_chart(request, seeds=seeds)
    if "class_accuracy" in evidence:
        figures["class_accuracy"] = class_accuracy(evidence, labels, seeds=one)
    if "membership_forget" in evidence:
        figures["membership"] = membership_evidence(evidence, labels, seeds=one)
    if "belief" in evidence and len(evidence["images"]) and np.ndim(evidence["images"]) == 4:
        figures["beliefs"] = belief_grid(evidence, labels, seeds=one)
    if len(evidence.get("trajectory_step", ())):
        figures["trajectory"] = trajectory(evidence, seeds=one)
    if len(evidence.get("mask_density", ())):
        figures["mask"] = mask_density(evidence, seeds=one)
    return figures


def gap_chart(request: Mapping[str, Any], *, seeds: int = 1) -> Figure:
    """Distance of each method to the retrained model, one panel per metric, beside the noise floor."""
    methods = [method for method in request["methods"] if method["key"] != request["reference"]]
    metrics = _compared(request)
    shades, floor = colours([method["key"] for method in request["methods"]]), request.get("noise_floor") or {}
    rows = -(-len(metrics) // 2)
    figure = Figure(figsize=(_WIDTH, 0.95 + rows * (0.62 + 0.2 * len(methods))), layout="constrained")
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for axes, metric in zip(grid.flat, metrics):
        noise = floor.get(metric["key"])
        distances = [results.distance(request, method, metric) for method in methods]
        gaps = np.abs([distance for distance, _ in distances])
        most = max(np.nanmax(gaps), noise or 0.0, 1e-6)
        linear = max(noise or 0.0, 0.04 * most)
        # Linear up to about the noise floor, then logarithmic: one collapsed method must not hide the others.
        axes.set_xscale("asinh", linear_width=linear)
        if noise is not None:
            axes.axvspan(0, noise, color=_FAINT, lw=0, zorder=0)
            axes.axvline(noise, color="#888888", lw=0.8, zorder=1)
        for y, (method, gap, (value, signed)) in enumerate(zip(methods, gaps, distances)):
            axes.plot([0, gap], [y, y], color=shades[method["key"]], lw=1.5, solid_capstyle="butt")
            axes.plot(gap, y, "o", color=shades[method["key"]], ms=5, clip_on=False)
            text = results.number(value, metric["unit"], signed=signed)
            axes.annotate(
                text, (gap if np.isfinite(gap) else 0, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        right = linear * np.sinh(1.35 * np.arcsinh(most / linear))
        axes.set_xlim(0, right)
        ticks = [tick for tick in np.outer(10.0 ** np.arange(-6, 5), (1, 3)).ravel() if linear * 0.99 <= tick <= right]
        axes.set_xticks([0, *(ticks if len(ticks) < 4 else [t for t in ticks if f"{t:e}"[0] == "1"])], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.set_title(f"{metric['key']} ({'points' if metric['unit'] == '%' else metric['unit']})", fontsize=10)
        axes.set_yticks(range(len(methods)), [method["label"] for method in methods])
        _plain(axes)
        axes.grid(False)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    if floor:
        figure.supxlabel("shorter is better; grey: distance between two retrained models", fontsize=9)
    _title(figure, f"Distance to retrained ({_count(seeds)})")
    return figure


def class_accuracy(
    evidence: Mapping[str, Any], labels: Mapping[str, str], *, seeds: str = "1 seed", most: int = 30
) -> Figure:
    """Accuracy by class for each model, on test rows and on forgotten rows; of many classes, those that differ most."""
    keys = [str(key) for key in evidence["class_accuracy_models"]]
    names = _names(evidence, evidence["class_accuracy"].shape[1])
    panels = [("rows never seen (test)", np.asarray(evidence["class_accuracy"], float))]
    if "class_accuracy_forget" in evidence:
        panels.append(("rows to be forgotten", np.asarray(evidence["class_accuracy_forget"], float)))
    kept = [_widest(values, most) for _, values in panels]
    heights = [len(rows) + 1 for rows in kept]
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.26 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    shades = colours([*labels, *keys])
    offsets = np.linspace(-0.22, 0.22, len(keys)) if len(keys) > 1 else [0.0]
    for axes, (title, values), rows in zip(grid, panels, kept):
        y = np.arange(len(rows))
        axes.hlines(
            y, np.nanmin(values[:, rows], axis=0), np.nanmax(values[:, rows], axis=0), color=_FAINT, lw=4, zorder=1
        )
        for j, key in enumerate(keys):
            axes.plot(
                values[j, rows],
                y + offsets[j],
                _MARKERS[j],
                color=shades[key],
                ms=6,
                ls="",
                label=_label(key, labels),
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
        _plain(axes)
    low = min(np.nanmin(values) for _, values in panels)
    grid[0].set_xlim(max(0.0, low - 0.06 * (100 - low)), 100)
    grid[-1].set_xlabel("accuracy (%)")
    _legend(figure, grid[0], len(keys))
    _title(figure, f"Accuracy by class ({seeds})")
    return figure


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
    figure = Figure(figsize=(_WIDTH, 1.2 + 1.35 * len(keys)), layout="constrained")
    grid = figure.subplots(len(keys), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    called = evidence.get("membership_called_member")
    for j, (axes, key) in enumerate(zip(grid, keys)):
        for name, shade, style, label in _GROUPS:
            share = np.histogram(np.clip(groups[name][j], edges[0], edges[-1]), edges)[0] * 100 / groups[name][j].size
            fill = style == "fill"
            look = {"fill": True, "alpha": 0.45} if fill else {"ls": style, "lw": 2.0 if style == "-" else 1.4}
            axes.stairs(share, edges, color=shade, label=label, **look)
        told = "" if called is None else f": attack calls {called[j]:.0f} % of forgotten rows members"
        axes.set_title(_label(key, labels) + told, fontsize=10, loc="left")
        _plain(axes)
    if logarithmic:
        grid[0].set_xscale("log")
    grid[0].set_xlim(edges[0], edges[-1])
    tail = ", log scale; first bin: all below" if logarithmic else ""
    grid[-1].set_xlabel(f"{score}{f' ({unit}{tail})' if unit else tail}")
    figure.supylabel("share of rows (%)", fontsize=10)
    _legend(figure, grid[0], 3)
    _title(figure, f"What a membership attack sees ({seeds})")
    return figure


_GROUPS = (
    ("remain", "#56B4E9", "fill", "remaining"),
    ("test", "#333333", "--", "never seen"),
    ("forget", "#A3003F", "-", "forgotten"),
)


def belief_grid(
    evidence: Mapping[str, Any], labels: Mapping[str, str], *, seeds: str = "1 seed", rows: int = 12
) -> Figure:
    """Forgotten images, and how each model spreads its belief over the classes; the true class in colour."""
    keys = [str(key) for key in evidence["belief_models"]]
    belief, truth = np.asarray(evidence["belief"], float)[:, :rows], np.asarray(evidence["labels"])[:rows]
    images, names = np.asarray(evidence["images"])[:rows], _names(evidence, belief.shape[2])
    shades, count = colours([*labels, *keys]), len(images)
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.8 * count), layout="constrained")
    grid = figure.subplots(count, 1 + len(keys), squeeze=False, width_ratios=[1] + [1.45] * len(keys))
    classes = np.arange(belief.shape[2])
    names, size = [_short(name, 9) for name in names], 9 if max(map(len, names)) <= 5 else 7.5
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
                color="#A3003F" if wrong else _INK,
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
            _label(key, labels),
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
    _title(figure, f"Belief about forgotten images ({seeds})")
    return figure


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
    figure = Figure(figsize=(_WIDTH, 0.9 + 1.75 * len(panels)), layout="constrained")
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
            axes.yaxis.set_major_formatter(FuncFormatter(_tick))
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
        _plain(axes, "y")
    grid[-1].set_xlabel("step")
    grid[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _title(figure, f"The run, step by step ({seeds})")
    return figure


_PARTS = {"forget": "#A3003F", "remain": "#0072B2", "saliency": "#E69F00"}
_CYCLE = ("#5F5F5F", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#7A5195")


def mask_density(evidence: Mapping[str, Any], *, seeds: str = "1 seed", most: int = 40) -> Figure:
    """Share of each parameter leaf that the saliency mask lets move."""
    leaves, density = [str(leaf) for leaf in evidence["mask_leaf"]][:most], np.asarray(evidence["mask_density"], float)
    left = len(density) - len(leaves)
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.24 * len(leaves)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(leaves)), 100 * density[: len(leaves)], color=PALETTE["sfron"], height=0.7)
    axes.set_yticks(range(len(leaves)), [_short(leaf, 28) for leaf in leaves], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("weights that the mask lets move (%)" + (f"; {left} more leaves not shown" if left > 0 else ""))
    _plain(axes)
    _title(figure, f"Saliency mask by layer ({seeds})")
    return figure


def _widest(values: np.ndarray, most: int) -> np.ndarray:
    present = np.flatnonzero(np.isfinite(values).any(axis=0))
    spread = np.nanmax(values[:, present], axis=0) - np.nanmin(values[:, present], axis=0)
    return np.sort(present[np.argsort(-spread, kind="stable")[:most]])


def _tick(value: float, _: Any = None) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    front = "" if mantissa == "1" else rf"{mantissa} \cdot "
    return f"${front}10^{{{int(exponent)}}}$"


def _plain(axes: Any, grid: str = "x") -> None:
    axes.grid(axis=grid, color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(textwrap.fill(text, 48), fontsize=11, fontweight="bold", x=0.02, ha="left")


def _legend(figure: Figure, axes: Any, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, 3), frameon=False, fontsize=9.5)


def _label(key: str, labels: Mapping[str, str]) -> str:
    return labels.get(key, key)


def _names(evidence: Mapping[str, Any], count: int) -> list[str]:
    return [str(name) for name in evidence["classes"]] if "classes" in evidence else [str(i) for i in range(count)]


def _short(text: str, width: int = 11) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _compared(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # Seconds are a cost, not a distance to anything.
    others = [each for each in request["methods"] if each["key"] != request["reference"]]
    return [
        metric
        for metric in request["metrics"]
        if metric["unit"] != "s" and any(np.isfinite(results.distance(request, each, metric)[0]) for each in others)
    ]


def _count(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"mean of {seeds} seeds"
