"""Forgetting quality: for each example, how far apart many unlearned and many retrained models are, in an ε of privacy."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from clujax.errors import RequestError

Scores = Float[Array | np.ndarray, "_M _Q"]


class NullScore(NamedTuple):
    """What exact unlearning earns with M models of each kind: mean ε and mean score over simulated examples."""

    epsilon: Float[Array, ""]
    score: Float[Array, ""]


def forget_epsilon(
    unlearned: Scores,
    retrained: Scores,
    *,
    delta: float = 1e-5,
    cap: float = 50.0,
    chunk: int = 64,
    official: bool = False,
) -> Float[Array, " _Q"]:
    """The ε of each example: the largest max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)) of any attack, 0 to cap.

    Attacks call "narrower set" inside an interval [l, r], or "set of the larger median" above a threshold; all intervals
    and thresholds whose ends are scores of the 2M models are tried. An attack with exactly one error rate of 0 is left out
    (too few models to say), one with both 0 earns the cap, and so does an example where one set's range is below 1 % of the
    other's. Does not change when all scores are scaled or moved.

    Args:
      unlearned: `scaled_confidence` of M unlearned models on Q examples.
      retrained: of M retrained ones.
      chunk: examples at a time.
      official: the attacks of the published code alone: ends on a grid of step 0.01, intervals no more than 2 longer or
        shorter than the narrower range and ending within 2 of its end. At most the default's ε, and it depends on the
        scores' unit: with 16 models of unit spread it is 0.2 less on average.

    Raises:
      RequestError: unequal shapes, or M < 3: ε could reach ln(M − 1) at most.
      ValueError: delta outside [0, 1), or cap or chunk not positive.

    Source: Triantafillou et al. 2024. Cost: 4M² counts for each example.
    """
    if unlearned.ndim != 2 or unlearned.shape != retrained.shape:
        raise RequestError(
            f"unlearned has shape {unlearned.shape} and retrained {retrained.shape}; expected [M, Q] for both: as many"
            " models of each kind, on the same examples."
        )
    check_models(unlearned.shape[0])
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; expected a number in [0, 1).")
    for name, value in (("cap", cap), ("chunk", chunk)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected a positive number.")
    return _epsilons(jnp.asarray(unlearned), jnp.asarray(retrained), delta, cap, chunk, official)


def check_models(models: int) -> None:
    """At least 3 models of each kind.

    Raises:
      RequestError: names the ε that so few could reach.
    """
    if models < 3:
        bound = f"ln(M − 1) = {math.log(models - 1):.2f}" if models > 1 else "nothing"
        raise RequestError(
            f"{models} models of each kind: ε could reach {bound} at most, so every example would look forgotten. Use at"
            " least 3, better 16 (2.71) or 64 (4.14)."
        )


def example_scores(epsilon: Float[Array | np.ndarray, " Q"], models: int) -> Float[Array, " Q"]:
    """2^{−k} for ε in [k/2, (k + 1)/2), and 0 beyond ⌈ln(M − 1)⌉, the ε that M models can tell.

    Example:
      >>> example_scores(jnp.array([0.0, 0.5, 1.2, 9.0]), 16).tolist()
      [1.0, 0.5, 0.25, 0.0]
    """
    check_models(models)
    epsilon = jnp.asarray(epsilon)
    return jnp.where(epsilon < math.ceil(math.log(models - 1)), 0.5 ** jnp.floor(2 * epsilon), 0.0)


def forget_score(epsilon: Float[Array | np.ndarray, " Q"], models: int) -> Float[Array, ""]:
    """Mean of `example_scores`, in [0, 1]. Exact unlearning does not earn 1: divide by `null_score(...).score`."""
    return jnp.mean(example_scores(epsilon, models))


def null_score(key: PRNGKeyArray, models: int, *, examples: int = 2000, chunk: int = 64) -> NullScore:
    """Mean ε and score where both kinds of models have one and the same law: what retraining earns against itself.

    Simulated with Gaussian scores; thresholds see ranks alone, so any continuous law gives about the same.

    Raises:
      RequestError: fewer than 3 models.
    """
    check_models(models)
    first, second = jax.random.split(key)
    draw = lambda key: jax.random.normal(key, (models, examples))
    epsilon = forget_epsilon(draw(first), draw(second), chunk=chunk)
    return NullScore(jnp.mean(epsilon), forget_score(epsilon, models))


def challenge_score(
    score: Float[Array, ""] | float,
    *,
    remain: Float[Array, ""] | float,
    unseen: Float[Array, ""] | float,
    retrained_remain: Float[Array, ""] | float,
    retrained_unseen: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """The forget score times the unlearned accuracies over the retrained ones, on remaining and on unseen rows."""
    return jnp.asarray(score) * (remain / retrained_remain) * (unseen / retrained_unseen)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _epsilons(unlearned, retrained, delta, cap, chunk, official):
    models = unlearned.shape[0]

    def epsilon(sets):
        """ε of one example from its M scores of each kind."""
        first, second = jnp.sort(sets[0]), jnp.sort(sets[1])
        ranges = jnp.stack([first[-1] - first[0], second[-1] - second[0]])
        order = lambda turned: (jnp.where(turned, second, first), jnp.where(turned, first, second))
        narrow, wide = order(ranges[1] < ranges[0])
        upper, lower = order(_median(second) > _median(first))
        double = _best(*(_grid if official else _intervals)(narrow, wide), models, delta)
        single = _best(*_thresholds(upper, lower, official), models, delta)
        peaked = jnp.min(ranges) < 0.01 * jnp.max(ranges)
        return jnp.where(peaked, cap, jnp.minimum(jnp.log(jnp.maximum(double, single)), cap))

    # The published grid has 160,000 intervals.
    return jax.lax.map(epsilon, (unlearned.T, retrained.T), batch_size=min(chunk, 4) if official else chunk)


def _best(missed, false, models, delta):
    """Largest exp(ε) of attacks that err on so many of each M models, at least 1."""
    fnr, fpr = missed / models, false / models
    ratio = jnp.maximum((1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr)
    never, none = missed == 0, false == 0
    return jnp.max(jnp.where(never & none, jnp.inf, jnp.where(never | none, 1.0, jnp.maximum(ratio, 1.0))))


def _intervals(narrow, wide):
    """Errors of calling inside [l, r] the narrower set, for l and r among all scores: `[2M, 2M]`."""
    ends = jnp.concatenate([narrow, wide])
    inside = lambda ordered: _count(ordered, ends, "right")[None, :] - _count(ordered, ends, "left")[:, None]
    return jnp.minimum(len(narrow) - inside(narrow), len(narrow)), jnp.maximum(inside(wide), 0)


def _grid(narrow, wide):
    """The same on the published grid: 400 right ends, and 400 left ends for each."""
    shifts = jnp.linspace(-2.0, 2.0, 400, dtype=narrow.dtype)
    right = narrow[-1] + shifts[:, None]
    left = right - (narrow[-1] - narrow[0]) + shifts
    inside = lambda ordered: jnp.maximum(_count(ordered, right, "right") - _count(ordered, left, "left"), 0)
    return len(narrow) - inside(narrow), inside(wide)


def _thresholds(upper, lower, official):
    """Errors of calling scores of at least τ the upper set, for τ among all scores."""
    ends = jnp.sort(jnp.concatenate([upper, lower]))
    missed, false = _count(upper, ends, "left"), len(lower) - _count(lower, ends, "left")
    if not official:
        return missed, false
    # A grid point acts as the next score at or above it: a score counts if the grid has one since the score before.
    extent = ends[-1] - ends[0]
    place = jnp.floor((ends - ends[0]) * ((jnp.ceil(100 * extent) - 1) / jnp.maximum(extent, 1e-30)))
    reached = jnp.concatenate([jnp.ones(1, bool), place[1:] > place[:-1]])
    return jnp.where(reached, missed, 0), jnp.where(reached, false, len(lower))


def _count(ordered, values, side):
    """How many of a sorted set are below (left), or at most (right), each value."""
    return jnp.searchsorted(ordered, values, side=side)


def _median(ordered):
    middle = ordered.shape[0] // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2
