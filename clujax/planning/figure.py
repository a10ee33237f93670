"""A plan as one picture: memory of a chip against its limit, the time of a step, and scaling over slices."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from clujax.planning import tables
from clujax.planning.analysis import StepPlan
from clujax.reports.figures import look

_PARTS = {
    "parameters": "#0072B2",
    "optimizer": "#56B4E9",
    "batch": "#009E73",
    "temporaries": "#E69F00",
    "the rest": "#8A8A8A",
}
_TIMES = {"compute": "#222222", "memory": "#A3A500", "network": "#CC79A7"}
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A5195", "#8C6D31", "#222222")


def png(plans: Sequence[StepPlan]) -> bytes:
    """The picture's bytes."""
    buffer = io.BytesIO()
    draw(plans).savefig(buffer, dpi=look.DPI, format="png")
    return buffer.getvalue()


def draw(plans: Sequence[StepPlan]) -> Figure:
    """Panels for memory, for time where a chip's figures are known, and for scaling where there is any."""
    timed, scaled = any(each.times for each in plans), [each for each in plans if each.scaling]
    panels = 1 + timed + bool(scaled)
    height = 2.1 + 0.36 * max(len(plans), 4)
    figure = Figure(figsize=(look.WIDTH if panels == 1 else look.WIDE, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=[1.1, 1, 1][:panels])[0]
    _memory(axes[0], plans)
    if timed:
        _times(axes[1], plans)
    if scaled:
        _scaling(axes[-1], scaled)
    look.title(figure, f"Planned, not run: {', '.join(dict.fromkeys(each.topology for each in plans))}")
    return figure


def _memory(axes: Axes, plans: Sequence[StepPlan]) -> None:
    totals, limits = [each.memory.total for each in plans], [each.memory.limit for each in plans if each.memory.limit]
    # Far below the limit the bars are drawn as large as there is room, and the limit is said in words.
    near = limits and max(totals) > 0.2 * max(limits)
    unit, scale = ("GiB", 2**30) if max(totals + limits * bool(near)) > 2**30 else ("MiB", 2**20)
    left = np.zeros(len(plans))
    rest = lambda m: m.stats + m.extra + m.padding + m.outputs + m.program
    for part, colour in _PARTS.items():
        sizes = [(rest(p.memory) if part == "the rest" else getattr(p.memory, part)) / scale for p in plans]
        axes.barh(range(len(plans)), sizes, left=left, color=colour, label=part, height=0.6)
        left += sizes
    for y, plan in enumerate(plans):
        if plan.memory.limit and near:
            label = "what a chip has" if y == 0 else None
            axes.plot([plan.memory.limit / scale] * 2, [y - 0.42, y + 0.42], color=look.RED, lw=2, label=label)
        text = tables.amount(plan.memory.total) + ("" if plan.fits else ", too large")
        spot = (max(left[y], plan.memory.limit / scale if near and plan.memory.limit else 0), y)
        colour = look.INK if plan.fits else look.RED
        axes.annotate(text, spot, (5, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
    axes.set_xlim(0, 1.4 * max([*totals, *(limits if near else ())]) / scale)
    _rows(axes, plans)
    said = "" if near or not limits else f"\na chip has {' or '.join(dict.fromkeys(map(tables.amount, limits)))}"
    axes.set_xlabel(f"{unit} on one chip{said}", fontsize=9)
    _legend(axes)


def _times(axes: Axes, plans: Sequence[StepPlan]) -> None:
    values = {part: [getattr(p.times, part) * 1e3 if p.times else np.nan for p in plans] for part in _TIMES}
    for place, (part, colour) in enumerate(_TIMES.items()):
        axes.barh(np.arange(len(plans)) + 0.22 * (place - 1), values[part], height=0.2, color=colour, label=part)
    for y, plan in enumerate(plans):
        if not plan.times:
            axes.text(
                0.02, y, "does not fit", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=look.RED
            )
    _rows(axes, plans, named=False)
    shown = [each for row in values.values() for each in row if each > 0]
    wide = max(shown) > 30 * min(shown)
    if wide:
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 3, max(shown) * 2)
        axes.xaxis.set_major_formatter(FuncFormatter(look.tick))
        axes.minorticks_off()
    axes.set_xlabel("milliseconds of a step, at least" + ("\nlog scale" if wide else ""), fontsize=9)
    _legend(axes)


def _scaling(axes: Axes, plans: Sequence[StepPlan]) -> None:
    for i, plan in enumerate(plans):
        slices, colour = [each.slices for each in plan.scaling], _LINES[i % len(_LINES)]
        curve = {"color": colour, "marker": look.MARKERS[i % len(look.MARKERS)], "ms": 4}
        axes.plot(slices, [100 * e.efficiency for e in plan.scaling], label=_name(plan, plans, " "), **curve)
        axes.plot(slices, [100 * e.efficiency_in_turn for e in plan.scaling], ls=":", color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(slices, [str(each) for each in slices])
    axes.set_ylim(0, 105)
    axes.set_xlabel("slices, each with its own rows\nline: all overlaps, dotted: nothing does", fontsize=9)
    axes.set_ylabel("weak-scaling efficiency (%)", fontsize=9)
    look.plain(axes, "both")
    _legend(axes, columns=1 if len(plans) < 5 else 2)


def _rows(axes: Axes, plans: Sequence[StepPlan], named: bool = True) -> None:
    axes.set_yticks(range(len(plans)), [_name(each, plans) if named else "" for each in plans])
    axes.set_ylim(len(plans) - 0.4, -0.6)
    look.plain(axes)


def _legend(axes: Axes, columns: int = 2) -> None:
    low = -0.32 if axes.get_xlabel().count("\n") else -0.24
    inches = axes.figure.get_size_inches()[1]
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, low * 3.5 / inches), ncols=columns)


def _name(plan: StepPlan, plans: Sequence[StepPlan], between: str = "\n") -> str:
    several = len({each.topology for each in plans}) > 1
    return look.literal(f"{plan.name}{between}{plan.topology}" if several else plan.name)
