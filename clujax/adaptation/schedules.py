"""How the ascent weight falls over a run: functions of progress s/N in [0, 1)."""

import math


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """(1 + cos(π s/N)) / 2, the official code's default.

    Example:
      >>> cosine(0.0), round(cosine(0.5), 6)
      (1.0, 0.5)
    """
    return (1 + math.cos(math.pi * progress)) / 2


def linear(progress: float) -> float:
    """1 − s/N, as the paper prints it."""
    return 1 - progress


def quadratic(progress: float) -> float:
    """(1 − s/N)²."""
    return (1 - progress) ** 2
