"""Plans as tables: what each step needs and takes, what it sends, and how far it scales."""

import itertools
import math
from collections.abc import Sequence

from rich.table import Table

from clujax.planning.analysis import StepPlan


def headline(plans: Sequence[StepPlan]) -> Table:
    """One row a step: memory of a chip, work, the time that the roofline allows, and what binds."""
    table = _table(
        "step",
        "on",
        "rows",
        "state",
        "batch",
        "within",
        "total",
        "of",
        "FLOPs",
        "time, at least",
        "binds",
        "MFU ≤",
        "whole run",
    )
    for plan in plans:
        memory, times = plan.memory, plan.times
        limit = "" if memory.limit is None else amount(memory.limit)
        total = amount(memory.total) if plan.fits else f"[bold red]{amount(memory.total)}[/]"
        state = memory.parameters + memory.optimizer + memory.stats + memory.extra + memory.padding
        inner = memory.temporaries + memory.outputs + memory.program
        work = "" if plan.flops is None else count(plan.flops)
        row = [
            plan.name,
            _on(plan),
            f"{plan.rows:,}",
            amount(state),
            amount(memory.batch),
            amount(inner),
            total,
            limit,
            work,
        ]
        if times:
            span = f"{seconds(times.bound)} ({seconds(times.in_turn)} in turn)"
            row += [span, times.binds, f"{100 * times.utilisation:.0f} %", seconds(plan.calls * times.bound)]
        elif not plan.fits:
            row += [f"[bold red]too large by {amount(memory.over)}[/]", "", "", ""]
        table.add_row(*row)
    return table


def collectives(plans: Sequence[StepPlan]) -> Table:
    """One row for each kind of collective and axes of each step."""
    table = _table("step", "on", "collective", "along", "devices", "count", "bytes, whole arrays", "time, at least")
    for plan in plans:
        for each, time in itertools.zip_longest(plan.collectives, plan.network):
            row = (each.kind, " × ".join(each.axes), str(each.group), str(each.count), amount(each.payload))
            table.add_row(plan.name, _on(plan), *row, "" if time is None else seconds(time))
    return table


def scaling(plans: Sequence[StepPlan]) -> Table:
    """Weak scaling over slices: every slice brings its own rows; the efficiency if all overlaps, and if nothing does."""
    table = _table("step", "slices", "chips", "rows", "over DCN", "step, at least", "efficiency", "without overlap")
    for plan in plans:
        for each in plan.scaling:
            table.add_row(
                plan.name, f"{each.slices} × {plan.topology}", f"{each.chips:,}", f"{each.rows:,}", seconds(each.between),
                seconds(each.overlapped), f"{100 * each.efficiency:.0f} %", f"{100 * each.efficiency_in_turn:.0f} %",
            )  # fmt: skip
    return table


def amount(size: float) -> str:
    """Bytes in binary units, three digits.

    Example:
        >>> amount(0), amount(1536), amount(16911433728)
        ('0', '1.5 KiB', '15.8 GiB')
    """
    power = min(5, int(math.log2(size) // 10)) if size >= 1 else 0
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")[power]
    return f"{size / 2 ** (10 * power):.3g} {unit}" if size else "0"


def count(number: float) -> str:
    """A number with a decimal prefix.

    Example:
        >>> count(2.5e12)
        '2.5 T'
    """
    power = min(6, int(math.log10(number) // 3)) if number >= 1 else 0
    return f"{number / 10 ** (3 * power):.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}".strip()


def seconds(value: float) -> str:
    """A time in the unit that reads best.

    Example:
        >>> seconds(0.0000123), seconds(0.25), seconds(7200)
        ('12.3 µs', '250 ms', '2 h')
    """
    if value != value:
        return "unknown"
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= length:
            return f"{value / length:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _on(plan: StepPlan) -> str:
    return (
        f"{plan.topology} {' × '.join(f'{name} {extent}' for name, extent in plan.mesh.items() if extent > 1)}".strip()
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        text = name in ("step", "on", "collective", "along", "binds")
        table.add_column(name, justify="left" if text else "right")
    return table
