"""The look that all figures share: sizes, colours that every common kind of colour vision tells apart, small helpers."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import compare, results, wording

DPI = 160
WIDTH = 4.5  # inches: 10 pt text is still 10 px high where a 390 px screen shows a figure at full width
WIDE = 9.6  # inches: 9 pt text is 12 px high across the whole page, 9 px where the page scrolls it sideways at 48 rem

# Okabe and Ito's palette; the three models of a story come first.
PALETTE = {
    "original": "#E69F00",
    "sfron": "#0072B2",
    "retrain": "#009E73",
    "retrain_again": "#66C2A5",
    "finetune": "#CC79A7",
    "gradient_ascent": "#D55E00",
    "random_label": "#56B4E9",
    "salun": "#7A5195",
    "ug_clu": "#0072B2",
    "oracle": "#222222",
    "oracle_again": "#8A8A8A",
}
_SPARE = ("#8C6D31", "#5F5F5F", "#B0407A", "#3C7A89", "#A3A500", "#404080")
MARKERS = ("s", "o", "D", "^", "v", "P", "X", "*")
INK, FAINT, SOFT = "#222222", "#D9D9D9", "#5F5F5F"
RED = "#A3003F"


def colours(keys: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in every figure of a run.

    Example:
        >>> colours(["original", "mine"])
        {'original': '#E69F00', 'mine': '#8C6D31'}
    """
    others = [key for key in dict.fromkeys(keys) if key not in PALETTE and "retrain" not in key]
    spare = {key: _SPARE[i % len(_SPARE)] for i, key in enumerate(others)}
    return {key: PALETTE.get(key) or spare.get(key) or PALETTE["retrain_again"] for key in keys}


def role(request: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """A colour by part in the story, where there are more methods than colours: given, retrained, in focus, other."""
    if method["key"] == "original":
        return PALETTE["original"]
    if results.retrained(request, method):
        return retrained(request)
    return PALETTE["sfron"] if method is compare.focus(request) else SOFT


def retrained(request: Mapping[str, Any]) -> str:
    """The colour of what methods are measured to: black for the oracle of a stream, green for a retrained model."""
    return INK if wording.is_stream(request) else PALETTE["retrain"]


def ink(request: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """The colour of a method's name: its role's, dark enough for text."""
    return _TEXT.get(role(request, method), role(request, method))


_TEXT = {PALETTE["original"]: "#8F5B00", PALETTE["retrain"]: "#00704F", SOFT: INK}


def named(method: Mapping[str, Any], width: int = 60) -> str:
    """A method's label, marked where it collapsed, in lines of at most `width` characters."""
    mark = "× " if compare.collapsed(method) else ""
    return literal(mark + textwrap.fill(method["label"], width, break_long_words=False))


def tick(value: float | np.number, _: Any = None) -> str:
    """A tick as people write numbers: plain in the middle range, powers of ten beyond."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    front = "" if mantissa == "1" else rf"{mantissa} \cdot "
    return f"${front}10^{{{int(exponent)}}}$"


def plain(axes: Any, grid: str = "x") -> None:
    """Faint grid lines behind the data, no box around it."""
    axes.grid(axis=grid, color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def rows(axes: Any, request: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], width: int = 22) -> None:
    """Methods as the axis's rows; the one in focus in bold, what was given and retrained in their colours."""
    axes.set_yticks(range(len(methods)), [named(method, width) for method in methods], linespacing=0.95)
    for text, method in zip(axes.get_yticklabels(), methods):
        text.set_fontweight("bold" if method is compare.focus(request) else "normal")
        text.set_color(ink(request, method))
    axes.set_ylim(len(methods) - 0.4, -0.6)


def title(figure: Figure, text: str) -> None:
    """The figure's heading, in as many lines as its width asks for."""
    wide = figure.get_size_inches()[0] > WIDTH
    text = literal(textwrap.fill(text, 110 if wide else 48))
    figure.suptitle(text, fontsize=11, fontweight="bold", x=0.02, ha="left")


def legend(figure: Figure, axes: Any, columns: int) -> None:
    """One legend below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    narrow = figure.get_size_inches()[0] <= WIDTH
    long = narrow and sum(map(len, labels)) > 50
    columns, size = min(columns, 2 if long else 3 if narrow else 6), 8.5 if long else 9.5
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=size)


def names(evidence: Mapping[str, Any], count: int) -> list[str]:
    """Names of the classes, else their numbers."""
    return [str(name) for name in evidence["classes"]] if "classes" in evidence else [str(i) for i in range(count)]


def short(text: str, width: int = 11) -> str:
    """A text cut to a width, with a sign that it was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def literal(text: str) -> str:
    """A text in which no dollar sign begins a formula."""
    return text.replace("$", r"\$")


def count(seeds: int) -> str:
    """On how many seeds a figure of means rests."""
    return "1 seed" if seeds == 1 else f"mean of {seeds} seeds"
