"""Who is how much in a soup, layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from clujax.reports.figures import look

MOST = 4  # panels


def soup_weights(weights: Mapping[str, np.ndarray], leaves: Sequence[str], seeds: str) -> Figure:
    """A panel for each of the first methods: mixing weights [K, leaves], linear up to 1/K and logarithmic beyond."""
    chosen = dict(list(weights.items())[:MOST])
    count = len(next(iter(chosen.values())))
    figure = Figure(figsize=(3.2 * len(chosen) + 1.9, 0.28 * len(leaves) + 1.9), layout="constrained")
    bound = 10.0 ** max(0, np.ceil(np.log10(max(np.abs(each).max() for each in chosen.values()))))
    norm = SymLogNorm(linthresh=1 / count, linscale=0.6, vmin=-bound, vmax=bound, base=10)
    panels = np.atleast_1d(figure.subplots(1, len(chosen), sharey=True))
    for axes, (name, values) in zip(panels, chosen.items()):
        picture = axes.imshow(values.T, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(leaves)), [look.literal(str(leaf)) for leaf in leaves], fontsize=8)
        axes.set_xticks(range(0, count, max(1, count // 6)))
        axes.set_xlabel("model")
        axes.set_title(look.literal(f"{name}:\n{values.min():.2f} … {values.max():.2f}"), fontsize=9.5)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.9)
    ticks = [-bound, *([-1] if bound > 1 else []), -1 / count, 0, 1 / count, *([1] if bound > 1 else []), bound]
    names = {-1 / count: "−1/K", 1 / count: "1/K"}
    bar.set_ticks(ticks, labels=[names.get(tick, f"{tick:g}".replace("-", "−")) for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label("mixing weight")
    look.title(figure, f"Mixing weights by layer and model ({seeds})")
    return figure
