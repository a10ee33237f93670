"""Which training rows become support points: the start, the growth, and the sizes in between."""

from typing import NamedTuple

import numpy as np


class Pool(NamedTuple):
    """What a growth rule may look at; arrays over the training rows."""

    prediction: np.ndarray  # original units, clipped to the training range
    target: np.ndarray  # original units
    scaled_target: np.ndarray  # in [−1, 1]
    group: np.ndarray  # equal rows of x share a group
    support: np.ndarray  # rows chosen already


def row_groups(x: np.ndarray) -> np.ndarray:
    """Group number of every row; equal rows share one. By 64-bit hashes of the rows: sorting a million rows is slow.

    Example:
        >>> row_groups(np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0]])).tolist() in ([0, 1, 0], [1, 0, 1])
        True
    """
    bits = np.ascontiguousarray(x + 0.0, np.float64).view(np.uint64)  # + 0.0: the two zeros are one number
    hashed = np.zeros(len(x), np.uint64)
    for column in bits.T:
        hashed = (hashed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(29)
    return np.unique(hashed, return_inverse=True)[1].reshape(-1)


def distinct(order: np.ndarray, group: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
    """First `count` rows of `order` of which no equal row is taken or comes earlier.

    Example:
        >>> distinct(np.array([3, 1, 0]), np.array([0, 1, 2, 1]), np.array([], int), 2)
        array([3, 0])
    """
    order = order[~np.isin(group[order], group[taken])]
    first = np.unique(group[order], return_index=True)[1]
    return order[np.sort(first)][:count]


def stratified(rng: np.random.Generator, y: np.ndarray, count: int) -> np.ndarray:
    """Every (N // count)-th row in the order of the target: at least `count` rows (authors' rule).

    Example:
        >>> len(stratified(np.random.default_rng(0), np.arange(4700.0), 116))
        118
    """
    first = y if y.ndim == 1 else y[:, 0]
    return np.argsort(first, kind="stable")[:: len(y) // count]


def per_class(rng: np.random.Generator, y: np.ndarray, count: int) -> np.ndarray:
    """Take count // C random rows of each class of one-hot targets, at least one."""
    label = y.argmax(-1)
    each = max(1, count // y.shape[-1])
    return np.concatenate([rng.permutation(np.flatnonzero(label == c))[:each] for c in range(y.shape[-1])])


def random_start(rng: np.random.Generator, y: np.ndarray, count: int) -> np.ndarray:
    """`count` rows without replacement."""
    return rng.permutation(len(y))[:count]


def growth_size(n: int, n_max: int, least: int = 10) -> int:
    """Rows to add at size n: a tenth, at least `least`, never beyond n_max."""
    return min(max(least, n // 10), n_max - n)


def largest_residual(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    """Rows of largest |prediction − target|, both in the target's own units, none equal to a support row."""
    residual = np.abs(pool.prediction - pool.target)
    residual = residual if residual.ndim == 1 else np.sqrt(np.square(residual).sum(-1))
    return distinct(np.argsort(-residual, kind="stable"), pool.group, pool.support, count)


def random_growth(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    """Random rows, none equal to a support row."""
    return distinct(rng.permutation(len(pool.target)), pool.group, pool.support, count)


def published_rule(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    """The authors' code: |prediction in original units − target in [−1, 1]|, present support not excluded.

    Kept for comparison only: it depends on the target's unit and picks rows again and again.
    """
    return np.argsort(-np.abs(pool.prediction - pool.scaled_target).reshape(len(pool.target), -1).sum(-1))[:count]


def misclassified(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    """Up to count // C random misclassified rows of each class (one-hot targets), none equal to a support row."""
    label, wrong = pool.target.argmax(-1), pool.prediction.argmax(-1) != pool.target.argmax(-1)
    classes = pool.target.shape[-1]
    each, chosen = max(1, count // classes), np.array([], int)
    for c in range(classes):
        order = rng.permutation(np.flatnonzero(wrong & (label == c)))
        taken = np.concatenate([pool.support, chosen])
        chosen = np.concatenate([chosen, distinct(order, pool.group, taken, each)])
    return chosen[:count]
