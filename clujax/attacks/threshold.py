"""Threshold attacks: one cut of a score for each class, and the attack by correctness alone."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from clujax.attacks.checks import check_labels, check_rows
from clujax.attacks.scores import correctness

Scores = Float[Array | np.ndarray, " _n"]
Labels = Int[Array | np.ndarray, " _n"]


class Thresholds(NamedTuple):
    """Cuts by class, and one of all classes together; a row is called a member where score ≥ its cut."""

    classes: Int[np.ndarray, " K"]
    cuts: Float[np.ndarray, " K"]
    pooled: float


def fit_thresholds(members: Scores, member_labels: Labels, strangers: Scores, stranger_labels: Labels) -> Thresholds:
    """For each class the score τ of a row that maximises P(member ≥ τ) + P(stranger < τ); of equals the first row.

    Rows come in order, members before strangers. Scores are larger for members: `confidence`, −`entropy`, −`m_entropy`.
    A class without rows of both kinds gets no cut of its own: its rows are judged by the pooled one (a forgotten class).

    Raises:
      RequestError: a set is empty, or not one label per row.

    Source: Song and Mittal 2021; any number of classes. Cost: a sort; in exact integers on the host.
    """
    check_rows(members=members, strangers=strangers)
    check_labels(members.shape, member_labels, name="member_labels")
    check_labels(strangers.shape, stranger_labels, name="stranger_labels")
    members, strangers = np.asarray(members), np.asarray(strangers)
    values = np.concatenate([members, strangers])
    labels = np.concatenate([np.asarray(member_labels), np.asarray(stranger_labels)])
    common = np.intersect1d(member_labels, stranger_labels)
    kept = np.isin(labels, common)
    rows = len(members)
    classes, cuts = _first_best(values[kept], labels[kept], np.arange(len(values))[kept] < rows)
    _, pooled = _first_best(values, np.zeros(len(values), int), np.arange(len(values)) < rows)
    return Thresholds(classes, cuts, float(pooled[0]))


def called_members(thresholds: Thresholds, scores: Scores, labels: Labels) -> float:
    """Per cent of rows at or above their class's cut.

    Raises:
      RequestError: no row, or not one label per row.
    """
    check_rows(scores=scores)
    check_labels(scores.shape, labels)
    place = np.searchsorted(thresholds.classes, labels)
    place = np.minimum(place, max(len(thresholds.classes) - 1, 0))
    if len(thresholds.classes) == 0:
        cut = thresholds.pooled
    else:
        cut = np.where(thresholds.classes[place] == np.asarray(labels), thresholds.cuts[place], thresholds.pooled)
    return 100.0 * float(np.mean(np.asarray(scores) >= cut))


def threshold_attack(
    members: tuple[Scores, Labels],
    strangers: tuple[Scores, Labels],
    inside: tuple[Scores, Labels],
    outside: tuple[Scores, Labels],
) -> tuple[float, float]:
    """Per cent of rows `inside` called members and of rows `outside` called strangers; thresholds of the first two sets.

    Args:
      members, strangers: (scores, labels) that the cuts are fitted on.
      inside, outside: (scores, labels) that they are read on, such as other training rows, or forget rows, and unseen ones.

    Source: Song and Mittal 2021.
    """
    thresholds = fit_thresholds(*members, *strangers)
    return called_members(thresholds, *inside), 100.0 - called_members(thresholds, *outside)


def correctness_attack(
    inside: tuple[Float[Array | np.ndarray, "_n _C"], Labels],
    outside: tuple[Float[Array | np.ndarray, "_m _C"], Labels],
) -> tuple[float, float]:
    """Per cent of rows `inside` (logits, labels) that the network gets right, and of rows `outside` that it gets wrong."""
    check_rows(inside=inside[0], outside=outside[0])
    return 100 * float(jnp.mean(correctness(*inside))), 100 - 100 * float(jnp.mean(correctness(*outside)))


def _first_best(values, labels, member):
    """Classes, and for each the first value that maximises the two rates."""
    classes, group = np.unique(labels, return_inverse=True)
    _, rank = np.unique(values, return_inverse=True)
    width = int(rank.max(initial=0)) + 1
    # (class, value) as one integer: both counts are then binary searches, for all classes at once.
    place = group.astype(np.int64) * width + rank
    start = group.astype(np.int64) * width
    inside, outside = np.sort(place[member]), np.sort(place[~member])
    caught = np.searchsorted(inside, start + width) - np.searchsorted(inside, place)
    rejected = np.searchsorted(outside, place) - np.searchsorted(outside, start)
    of_class = lambda chosen: np.bincount(group[chosen], minlength=len(classes))
    # caught / members + rejected / strangers, times both counts.
    merit = caught * of_class(~member)[group] + rejected * of_class(member)[group]
    order = np.lexsort((np.arange(len(values)), -merit, group))
    first = order[np.searchsorted(group[order], np.arange(len(classes)))]
    return classes, values[first]
