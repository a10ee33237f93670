"""Names beside the points of a scatter plot, each where it covers least."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

_DIRECTIONS = np.stack([(np.cos(turn), np.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
_REACHES = (7.0, 13.0, 21.0, 32.0, 46.0, 64.0, 86.0)  # points between a marker and the near edge of its name
_ROUNDS = 4


def place(axes: Any, points: np.ndarray, texts: Sequence[Any], obstacles: np.ndarray) -> None:
    """Move texts, drawn at their points, to places nearby that cover no marker and no other text.

    Each text in turn takes the cheapest of some hundred places around its point, the others staying where they are;
    a few rounds of this settle. A thin line leads to a name that had to go far. Same input, same picture.

    Args:
      axes: of a figure whose layout is otherwise complete.
      points: `[n, 2]` in data coordinates.
      texts: n matplotlib texts with `ha="center", va="center"`.
      obstacles: `[m, 2]` further points in data coordinates that no text should cover.
    """
    figure = axes.figure
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer, scale = canvas.get_renderer(), figure.dpi / 72
    anchors = axes.transData.transform(points)
    marks = np.concatenate([anchors, axes.transData.transform(obstacles).reshape(-1, 2)])
    halves = np.array([_half(text.get_window_extent(renderer)) for text in texts]).reshape(-1, 2) + scale
    frame = np.array([axes.bbox.min, axes.bbox.max])
    places = np.array([_candidates(anchor, half, scale) for anchor, half in zip(anchors, halves)])
    chosen = np.zeros(len(texts), int)
    for _ in range(_ROUNDS):
        for i in np.argsort(-anchors[:, 0], kind="stable"):
            taken = places[np.arange(len(texts)), chosen]
            others = np.arange(len(texts)) != i
            cost = _cost(places[i], halves[i], anchors[i], taken[others], halves[others], marks, frame, scale)
            chosen[i] = int(np.argmin(cost))
    for text, anchor, half, spot in zip(texts, anchors, halves, places[np.arange(len(texts)), chosen]):
        text.set_position(axes.transData.inverted().transform(spot))
        near = np.clip(anchor, spot - half, spot + half)
        if np.hypot(*(near - anchor)) > 12 * scale:
            ends = axes.transData.inverted().transform([anchor, near])
            axes.plot(*ends.T, color=text.get_color(), lw=0.5, alpha=0.7, zorder=1.5)


def _half(box: Any) -> tuple[float, float]:
    return box.width / 2, box.height / 2


def _candidates(anchor: np.ndarray, half: np.ndarray, scale: float) -> np.ndarray:
    return np.concatenate([anchor + _DIRECTIONS * (half + reach * scale * 0.8) for reach in _REACHES])


def _cost(spots, half, anchor, taken, halves, marks, frame, scale):
    area = 4 * half.prod()
    overlap = np.clip(half + halves - np.abs(spots[:, None] - taken), 0, None).prod(-1).sum(-1) / area
    covered = (np.abs(spots[:, None] - marks) < half + 3 * scale).all(-1).sum(-1)
    outside = (np.clip(frame[0] - (spots - half), 0, None) + np.clip(spots + half - frame[1], 0, None)).sum(-1)
    far = np.hypot(*np.clip(np.abs(spots - anchor) - half, 0, None).T) / (60 * scale)
    ends = np.clip(anchor, spots - half, spots + half)
    steps = anchor + np.linspace(0.15, 0.95, 8)[:, None, None] * (ends - anchor)
    crossed = (np.abs(steps[:, :, None] - taken) < halves).all(-1).any(0).sum(-1)
    return 6 * overlap + 2 * covered + 3 * crossed + outside / scale + far
