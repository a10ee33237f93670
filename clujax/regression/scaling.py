"""Columns to [−1, 1] and back: one pure map for inputs and targets."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

Values = Float[Array | np.ndarray, "..."]


class Scaling(NamedTuple):
    """Affine map of columns to [−1, 1]; a constant column becomes 0."""

    middle: np.ndarray
    half: np.ndarray

    def forward(self, values: Values) -> Values:
        """Original units to [−1, 1]."""
        return (values - self.middle) / self.half

    def inverse(self, values: Values) -> Values:
        """[−1, 1] to original units."""
        return values * self.half + self.middle


def min_max(values: np.ndarray) -> Scaling:
    """Scaling by the columns' minima and maxima.

    Example:
        >>> print(min_max(np.array([[0.0, 5.0], [4.0, 5.0]])).forward(np.array([[1.0, 5.0]])))
        [[-0.5  0. ]]
    """
    low, high = values.min(0), values.max(0)
    half = np.where(high > low, (high - low) / 2, 0.5)
    return Scaling(low / 2 + high / 2, half)
