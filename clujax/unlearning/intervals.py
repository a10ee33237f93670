"""How sure a number is: bootstrap intervals of gaps, t intervals over seeds, and the ellipse of retraining noise."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PRNGKeyArray, PyTree
from scipy.special import stdtrit

from clujax.errors import RequestError


class Interval(NamedTuple):
    """An estimate between two bounds at a level, in the unit of what was measured."""

    estimate: float
    low: float
    high: float
    level: float


class Ellipse(NamedTuple):
    """Its centre `[2]` and its semi-axes as two vectors `[2, 2]`, the longer first."""

    centre: Float[np.ndarray, " 2"]
    axes: Float[np.ndarray, "2 2"]


def bootstrap_interval(
    key: PRNGKeyArray,
    values: PyTree,
    *,
    level: float = 0.95,
    draws: int = 2000,
    statistic: Callable[[PyTree], float] = np.mean,
) -> Interval:
    """Percentile bootstrap of a statistic of rows.

    With fewer than some 20 rows it is too narrow; over seeds use `t_interval`.

    Args:
      key: of the draws.
      values: `[n]`, or any tree of arrays with one row axis in front, whose rows are drawn together.
      level: of the interval, in (0, 1).
      draws: resamplings.
      statistic: `statistic(values) -> number`, called once a draw; compile one that is written in jax.

    Raises:
      RequestError: no rows, arrays of different lengths, or values that are not finite.
      ValueError: level or draws out of range.

    Source: Efron and Tibshirani 1993. Cost: draws statistics; 1 s for a mean of 50,000 rows.
    """
    values = _columns(values)
    _check(level, draws)
    rows, rng = len(jax.tree.leaves(values)[0]), _generator(key)

    def draw():
        chosen = rng.integers(rows, size=rows)
        return statistic(jax.tree.map(lambda column: column[chosen], values))

    return _percentiles(statistic(values), [draw() for _ in range(draws)], level)


def paired_gap_interval(
    key: PRNGKeyArray,
    method: ArrayLike,
    reference: ArrayLike,
    *,
    same_rows: bool = False,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """Bootstrap interval of mean(method) − mean(reference), where both answered for the same rows.

    What moves both (an easy row, a lucky draw of rows) cancels, so it is far narrower than the two intervals apart. With
    several seeds, seeds are drawn first and rows within each; a single seed says nothing of the spread over seeds.

    Args:
      key: of the draws.
      method: `[n]`, or `[S, n]` over seeds: a number a row, for example whether it is right or is called a member.
      reference: the same of the retrained network.
      same_rows: whether all seeds answered for the same rows (test rows). One draw of rows then serves every seed, which
        keeps what a row does to all of them; by default each seed has rows of its own (its forget set).
      level, draws: as in `bootstrap_interval`.

    Raises:
      RequestError: shapes that differ, no rows, values that are not finite.
      ValueError: level or draws out of range.
    """
    pair = [np.asarray(side) for side in (method, reference)]
    if pair[0].shape != pair[1].shape or pair[0].ndim not in (1, 2):
        raise RequestError(
            f"method has shape {pair[0].shape}, reference {pair[1].shape}; expected [n] or [S, n], the same rows for both."
        )
    difference = np.atleast_2d(_columns(pair[0].astype(float) - pair[1].astype(float)))
    _check(level, draws)
    seeds, rows = difference.shape
    if not rows:
        raise RequestError(f"method has shape {pair[0].shape}; expected at least one row.")
    rng = _generator(key)

    def draw():
        chosen = rng.integers(seeds, size=(seeds, 1))
        return difference[chosen, rng.integers(rows, size=(1 if same_rows else seeds, rows))].mean()

    return _percentiles(difference.mean(), [draw() for _ in range(draws)], level)


def t_interval(values: ArrayLike | Sequence[float], *, level: float = 0.95) -> Interval:
    """Student's interval of the mean over seeds: mean ± t s / √S with S − 1 degrees of freedom.

    Raises:
      RequestError: fewer than two values, or values that are not finite.
      ValueError: level out of range.
    """
    values = np.asarray(values, np.float64)
    _check(level)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise RequestError(f"values have shape {values.shape}; expected [S] finite numbers of at least 2 seeds.")
    reach = stdtrit(values.size - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(values.size)
    centre = values.mean()
    return Interval(float(centre), float(centre - reach), float(centre + reach), level)


def noise_ellipse(points: ArrayLike, *, deviations: float = 2.0) -> Ellipse:
    """The ellipse of so many standard deviations around points `[K, 2]`, from their covariance (divisor K − 1).

    Of retrained networks in a plane of two metrics it is the noise floor: a method inside cannot be told from retraining.
    Two deviations hold 86 % of a Gaussian in the plane, when K is large.

    Raises:
      RequestError: not `[K, 2]` with K ≥ 3, or not finite.
      ValueError: deviations are not positive.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise RequestError(f"points have shape {points.shape}; expected at least 3 finite points [K, 2].")
    if not deviations > 0:
        raise ValueError(f"deviations is {deviations}; expected a positive number.")
    spread, directions = np.linalg.eigh(np.cov(points.T))
    axes = deviations * np.sqrt(np.maximum(spread, 0))[:, None] * directions.T
    return Ellipse(points.mean(0), axes[::-1])


def _generator(key):
    """NumPy's, seeded by a key: on rows this small, compiling the draws costs more than making them."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _percentiles(estimate, found, level):
    low, high = np.quantile(np.asarray(found, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level)


def _columns(values):
    """The arrays as floats, or an error."""
    values = jax.tree.map(lambda column: np.asarray(column, np.float64), values)
    shapes = [column.shape for column in jax.tree.leaves(values)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1 or shapes[0][0] == 0:
        raise RequestError(f"values have shapes {shapes}; expected at least one row, as many in each array.")
    if not all(np.isfinite(column).all() for column in jax.tree.leaves(values)):
        raise RequestError("values hold NaN or Inf; take out rows without a value, in method and reference alike.")
    return values


def _check(level, draws=1):
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number between 0 and 1.")
    if not draws >= 1:
        raise ValueError(f"draws is {draws}; expected at least 1.")
