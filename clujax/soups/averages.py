"""Soups without learning: the best model, the mean of all, and the greedy mean (Wortsman et al. 2022, arXiv 2203.05482)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from clujax.geometry.mixing import Groups, wide
from clujax.soups import statistics
from clujax.soups.groups import make_groups, whole
from clujax.soups.mehl import check_block
from clujax.soups.pools import Pool, load_checked
from clujax.soups.soup import Soup, as_model, dtypes_of, streamed

Score = Callable[[PyTree], float]


def scores_of(pool: Pool, score: Score) -> list[float]:
    """Held-out score of every model, higher is better; K evaluations, one model in memory."""
    return [float(score(load_checked(pool, k))) for k in range(len(pool))]


def best_individual(pool: Pool, score: Score, *, scores: Sequence[float] | None = None) -> Soup:
    """The model with the highest held-out score, the first of equals; history is every model's score.

    Args:
        pool: the models.
        score: held-out score of a model, higher is better.
        scores: where they are known already.
    """
    scores = scores_of(pool, score) if scores is None else list(scores)
    best, groups = int(np.argmax(scores)), _groups(pool, statistics.from_best(0))
    weights = np.tile(np.eye(len(pool))[best][:, None], (1, len(groups.names)))
    history = [{"model": k, "score": each} for k, each in enumerate(scores)]
    return Soup(pool.load(best), weights, groups, history)


def uniform(pool: Pool, *, stats: statistics.Policy | None = None) -> Soup:
    """The mean of all models, streamed; one model and the sum are in memory.

    Args:
        pool: the models.
        stats: what becomes of BatchNorm statistics; must be given where there are any.
    """
    check_block(len(pool), None)
    groups = _groups(pool, stats)
    weights = statistics.start_weights(groups, len(pool), range(len(pool)), stats)
    return _finished(pool, streamed(pool, weights, groups), weights, groups, stats, [])


def greedy(
    pool: Pool,
    score: Score,
    *,
    scores: Sequence[float] | None = None,
    order: Sequence[int] | None = None,
    stats: statistics.Policy | None = None,
) -> Soup:
    """The mean of models that are added one by one while the held-out score strictly increases.

    Two models and the candidate are in memory; K − 1 evaluations, and K more where scores are not known.

    Args:
        pool: the models.
        score: held-out score of a model, higher is better.
        scores: of the models, where they are known already.
        order: in which they are tried; by default by decreasing score, equals from the last to the first as the authors'
            code has it.
        stats: what becomes of BatchNorm statistics.

    Returns:
        The soup; history has for every model tried its number, the candidate's score, and whether it was taken in.
    """
    count = check_block(len(pool), None)
    groups, constants = _groups(pool, stats), {}
    scores = scores_of(pool, score) if scores is None else list(scores)
    order = np.argsort(scores, kind="stable")[::-1] if order is None else order
    dtypes, fixed = dtypes_of(pool), statistics.start_weights(groups, count, range(count), stats)
    still = streamed(pool, fixed, groups) if groups.frozen else None
    first, *rest = (int(k) for k in order)
    soup = jax.tree.map(wide, load_checked(pool, first, constants))
    taken, best = [first], float(scores[first])
    history = [{"model": first, "score": best, "taken": True}]
    for k in rest:
        candidate = _added(soup, load_checked(pool, k, constants), len(taken))
        found = float(score(as_model(_with_statistics(candidate, still, groups), dtypes)))
        history.append({"model": k, "score": found, "taken": found > best})
        if found > best:
            soup, best = candidate, found
            taken.append(k)
    weights = statistics.start_weights(groups, count, taken, stats)
    return _finished(pool, _with_statistics(soup, still, groups), weights, groups, stats, history)


@jax.jit
def _added(soup, model, n):
    """The mean of n models and one more; leaves that cannot be mixed stay."""

    def one(old, new):
        return old * (n / (n + 1)) + wide(new) / (n + 1) if jnp.issubdtype(old.dtype, jnp.inexact) else old

    return jax.tree.map(one, soup, model)


def _groups(pool: Pool, stats: statistics.Policy | None) -> Groups:
    return make_groups(pool.struct, whole, statistics.frozen(pool.struct, stats))


def _with_statistics(soup: PyTree, still: PyTree | None, groups: Groups) -> PyTree:
    if still is None:
        return soup
    leaves, structure = jax.tree.flatten(soup)
    fixed = structure.flatten_up_to(still)
    return structure.unflatten([b if number in groups.frozen else a for a, b, number in zip(leaves, fixed, groups.of)])


def _finished(pool, theta, weights, groups, stats, history) -> Soup:
    params = as_model(theta, dtypes_of(pool))
    return Soup(params if stats is None else stats.finish(params), weights, groups, history)
