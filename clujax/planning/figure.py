"""A plan as one picture: memory of a chip against its limit, the time of a step, and scaling over slices."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

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
_TIMES = {"compute": "#0072B2", "memory": "#E69F00", "network": "#CC79A7"}
_GIB = 2**30


def png(plans: Sequence[StepPlan]) -> bytes:
    """The picture's bytes."""
    buffer = io.BytesIO()
    draw(plans).savefig(buffer, dpi=look.DPI, format="png")
    return buffer.getvalue()


def draw(plans: Sequence[StepPlan]) -> Figure:
    """Panels for memory, for time where a chip's figures are known, and for scaling where there is any."""
    timed, scaled = any(each.times for each in plans), [each for each in plans if each.scaling]
    panels = 1 + timed + bool(scaled)
    height = 1.7 + 0.3 * max(len(plans), 4)
    figure = Figure(figsize=(look.WIDTH if panels == 1 else look.WIDE, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=[1.15, 1, 0.9][:panels])[0]
    _memory(axes[0], plans)
    if timed:
        _times(axes[1], plans)
    if scaled:
        _scaling(axes[-1], scaled)
    look.title(figure, f"Planned, not run: {', '.join(dict.fromkeys(each.topology for each in plans))}")
    return figure


def _memory(axes, plans: Sequence[StepPlan]) -> None:
    left = np.zeros(len(plans))
    for part, colour in _PARTS.items():
        rest = lambda m: m.stats + m.extra + m.padding + m.outputs + m.program
        sizes = np.array([rest(p.memory) if part == "the rest" else getattr(p.memory, part) for p in plans]) / _GIB
        axes.barh(range(len(plans)), sizes, left=left, color=colour, label=part, height=0.6)
        left += sizes
    for y, plan in enumerate(plans):
        if plan.memory.limit:
            label = "what a chip has" if y == 0 else None
            axes.plot([plan.memory.limit / _GIB] * 2, [y - 0.42, y + 0.42], color=look.RED, lw=2, label=label)
        mark = "" if plan.fits else "  too large"
        axes.annotate(f"{tables.amount(plan.memory.total)}{mark}", (left[y], y), (4, 0), textcoords="offset points",
                      va="center", fontsize=8, color=look.INK if plan.fits else look.RED)  # fmt: skip
    axes.set_xlim(0, 1.3 * max(left.max(), max((p.memory.limit or 0) for p in plans) / _GIB / 1.2))
    _rows(axes, plans)
    axes.set_xlabel("GiB on one chip", fontsize=9)


def _times(axes, plans: Sequence[StepPlan]) -> None:
    for place, (part, colour) in enumerate(_TIMES.items()):
        values = [getattr(p.times, part) * 1e3 if p.times else np.nan for p in plans]
        axes.barh(np.arange(len(plans)) + 0.22 * (place - 1), values, height=0.2, color=colour, label=part)
    axes.set_xscale("log")
    _rows(axes, plans, named=False)
    axes.set_xlabel("milliseconds of a step, at least (log scale)", fontsize=9)


def _scaling(axes, plans: Sequence[StepPlan]) -> None:
    for plan, marker in zip(plans, look.MARKERS * len(plans)):
        slices = [each.slices for each in plan.scaling]
        (line,) = axes.plot(
            slices, [100 * e.efficiency for e in plan.scaling], marker=marker, ms=4, label=_name(plan, plans)
        )
        axes.plot(slices, [100 * e.efficiency_in_turn for e in plan.scaling], ls=":", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_xticks(slices, [str(each) for each in slices])
    axes.set_ylim(0, 105)
    axes.set_xlabel("slices (dotted: nothing overlaps)", fontsize=9)
    axes.set_ylabel("weak-scaling efficiency, at most (%)", fontsize=9)
    look.plain(axes, "both")
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")


def _rows(axes, plans: Sequence[StepPlan], named: bool = True) -> None:
    axes.set_yticks(range(len(plans)), [_name(each, plans) if named else "" for each in plans])
    axes.set_ylim(len(plans) - 0.4, -0.6)
    look.plain(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _name(plan: StepPlan, plans: Sequence[StepPlan]) -> str:
    several = len({each.topology for each in plans}) > 1
    return look.literal(f"{plan.name}\n{plan.topology}" if several else plan.name)
