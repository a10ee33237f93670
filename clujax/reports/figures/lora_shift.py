"""What a shift of the test rows costs each method."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports.figures import look


def lora_shift(record: Mapping[str, Any], seeds: int) -> Figure:
    """Accuracy of every method (colours) on every set of test rows (places on the axis)."""
    methods, tests = record["methods"], record["tests"]
    figure = Figure(figsize=(1.35 * look.WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    palette = look.colours([f"m{i}" for i in range(len(methods))]).values()
    apart = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else [0.0]
    for place, method, colour, marker in zip(apart, methods, palette, look.MARKERS * 3):
        values = [method["values"][f"{name}/accuracy"] for name in tests]
        spread = [method["std"].get(f"{name}/accuracy", 0.0) for name in tests]
        axes.errorbar(
            np.arange(len(tests)) + place, values, yerr=spread if seeds > 1 else None, fmt=marker, ms=6, capsize=3,
            color=colour, label=look.literal(method["label"]),
        )  # fmt: skip
    axes.set_xticks(range(len(tests)), [look.literal(name.replace("_", " ")) for name in tests])
    axes.set_ylabel("accuracy, %")
    look.plain(axes, "y")
    look.legend(figure, axes, 2)
    look.title(figure, f"Accuracy on test rows and on shifted ones ({look.count(seeds)})")
    return figure
