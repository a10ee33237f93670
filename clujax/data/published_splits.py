"""Splits that published code draws, row for row where its text allows it: each function returns a `Split`.

Rows are numbered in the order of the data set's own training file (CIFAR: batches 1 to 5, one after the other), so labels
must be those of all rows in that order. The settings are those that the authors' code has as its defaults; the functions
were written from what that code does and are not copies of it.
"""

import random

import numpy as np
from jaxtyping import Int

from clujax.data.split import Split, check_classes, check_fraction, finish_split
from clujax.errors import RequestError

_MEMBERS = (
    (4, 30, 55, 72, 95),
    (1, 32, 67, 73, 91),
    (54, 62, 70, 82, 92),
    (9, 10, 16, 28, 61),
    (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87),
    (5, 20, 25, 84, 94),
    (6, 7, 14, 18, 24),
    (3, 42, 43, 88, 97),
    (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71),
    (15, 19, 21, 31, 38),
    (34, 63, 64, 66, 75),
    (26, 45, 77, 79, 99),
    (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93),
    (36, 50, 65, 74, 80),
    (47, 52, 56, 59, 96),
    (8, 13, 48, 58, 90),
    (41, 69, 81, 85, 89),
)
# The coarse label of each of CIFAR-100's fine labels, both in alphabetical order of their names.
CIFAR100_COARSE = tuple(next(c for c, fine in enumerate(_MEMBERS) if f in fine) for f in range(100))


def salun_validation(labels, seed: int = 2, part: float = 0.1) -> Int[np.ndarray, " n_v"]:
    """Rows that SalUn and l1-sparse hold out for validation: ⌊`part`·n_c⌋ of each class, one class after the other.

    One legacy generator of `seed` draws without replacement from each class's rows in turn. Published: 5000 of CIFAR's
    50 000; `part` is 0 for Tiny-ImageNet.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.

    Raises:
      RequestError: labels are no such array, the seed is no legacy seed, or part is not in [0, 1).
    """
    labels = _labels(labels)
    if not 0 <= part < 1:
        raise RequestError(f"part is {part}; expected a number in [0, 1).")
    generator = _legacy(seed)
    drawn = [
        generator.choice(rows, int(part * len(rows)), replace=False)
        for rows in (np.flatnonzero(labels == c) for c in range(labels.max() + 1))
        if len(rows)
    ]
    return np.sort(np.concatenate(drawn))


def salun(
    labels, *, count: int | None = None, forget_class: int | None = None, seed: int = 2, part: float = 0.1
) -> Split:
    """The split of SalUn (arXiv 2310.12508) and l1-sparse (arXiv 2304.04934).

    First `salun_validation` takes its rows out of both parts. Of the rest, in the file's order, a legacy generator of
    `seed − 1` draws `count` without replacement: from all rows, or from those of `forget_class`. Without a count the whole
    class is forgotten; its test rows then leave the test set. Published: seed 2; 4500 rows are called 10 %, 22 500 50 %.

    The authors' code trains its original network with validation rows of seed 1, whatever the seed of the request: about a
    tenth of the rows it then forgets were never trained on. A split cannot show this; here one network and one split go
    together.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.

    Raises:
      RequestError: a class is absent, count is out of range, or seed is below 1.
    """
    labels = _labels(labels)
    if seed < 1:
        raise RequestError(f"seed is {seed}; salun draws with seed - 1, so expected at least 1.")
    held = salun_validation(labels, seed, part)
    trained = np.setdiff1d(np.arange(len(labels)), held)
    pool = trained
    if forget_class is not None:
        check_classes(labels[trained], [forget_class], "salun")
        pool = trained[labels[trained] == forget_class]
    elif count is None:
        raise RequestError("count and forget_class are None; salun needs the number of rows, the class, or both.")
    if count is not None and not 0 < count <= len(pool):
        raise RequestError(f"count is {count}; expected from 1 to the {len(pool)} rows that are drawn from.")
    forget = pool if count is None else _legacy(seed - 1).choice(pool, count, replace=False)
    return finish_split(forget, len(labels), "salun", held)


def muso(labels, *, fraction: float, seed: int = 42) -> Split:
    """The stratified split of MUSO (arXiv 2410.08557): the first rows of each class, shuffled, class after class.

    Published: 1 % and 10 % of each class (50 and 500 rows of a CIFAR-10 class, 5 and 50 of a CIFAR-100 class). The authors'
    code shuffles with an unseeded legacy generator and reads the result from index files that are not part of it, so the
    published rows themselves cannot be had from a seed: 42 is the seed that their training scripts set, and what is
    reproduced is the law, not the draw. With the files at hand, `kit` takes their rows.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.

    Raises:
      RequestError: fraction is not in (0, 1), or no row would be forgotten.
    """
    labels = _labels(labels)
    check_fraction(fraction, "muso")
    generator = _legacy(seed)
    found = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        generator.shuffle(rows)
        found.append(rows[: round(fraction * len(rows))])
    return finish_split(np.concatenate(found), len(labels), "muso")


def sfron(labels, *, fraction: float, seed: int = 0, step: int = 0) -> Split:
    """The split of SFR-on (arXiv 2409.19732): slices of Python's own shuffle of all rows, ⌊`fraction`·N⌋ a slice.

    Published: seed 0 in the scripts (42 is the program's default), 10 %, step 0. At a later step the slices before it, having
    been forgotten, are in neither part. The authors store the permutation of the first run and read it ever after.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.

    Raises:
      RequestError: fraction is not in (0, 1), or the rows do not last for this step.
    """
    labels = _labels(labels)
    check_fraction(fraction, "sfron")
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    size = int(len(order) * fraction)
    if step < 0 or size * (step + 1) > len(order):
        raise RequestError(f"step is {step}; {len(order)} rows are {len(order) // max(size, 1)} slices of {size}.")
    return finish_split(order[size * step : size * (step + 1)], len(order), "sfron", order[: size * step])


def ssd(labels, *, fraction: float, seed: int = 0) -> Split:
    """A split as selective synaptic dampening (arXiv 2308.07707) draws it: the first part of PyTorch's random split in two.

    As many rows as there (83 of CIFAR-10's 50 000 for the published fraction 0.00165), by the same permutation algorithm.
    The rows themselves are not the published ones: the authors' generator has by then drawn the weights of two networks.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.

    Raises:
      RequestError: fraction is not in (0, 1), or no row would be forgotten.
    """
    labels = _labels(labels)
    check_fraction(fraction, "ssd")
    n = len(labels)
    # Both lengths are rounded down, and what is left over goes one by one to the parts in their order.
    size = int(np.floor(n * fraction)) + (n > np.floor(n * fraction) + np.floor(n * (1 - fraction)))
    return finish_split(_torch_permutation(n, seed)[:size], n, "ssd")


def kit(labels, *, rows) -> Split:
    """The split of the NeurIPS 2023 unlearning challenge's starting kit: the rows of an index file, 10 % of CIFAR-10.

    Args:
      labels: `[N]` labels of all training rows, in the file's order.
      rows: `[n]` the row numbers of the file (`forget_idx.npy`), which the kit downloads and which follow from no seed.

    Raises:
      RequestError: the rows are no row numbers, repeat or point outside the data.
    """
    return finish_split(np.asarray(rows), len(_labels(labels)), "kit")


def kit_halves(num_test: int, seed: int = 42) -> tuple[Int[np.ndarray, " n_t"], Int[np.ndarray, " n_v"]]:
    """Rows of the test set that the starting kit tests on, and those that it validates with: PyTorch's random halves.

    The first half has the odd row. Needs no PyTorch: its permutation is the modulo shuffle of the Mersenne twister's words.

    Raises:
      RequestError: fewer than two rows.
    """
    if num_test < 2:
        raise RequestError(f"num_test is {num_test}; two halves need at least 2 rows.")
    order, half = _torch_permutation(num_test, seed), (num_test + 1) // 2
    return np.sort(order[:half]), np.sort(order[half:])


PUBLISHED = {"salun": salun, "muso": muso, "sfron": sfron, "ssd": ssd, "kit": kit}


def _labels(labels):
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not labels.size or labels.min() < 0:
        raise RequestError(f"labels has shape {labels.shape}, dtype {labels.dtype}; expected [N] integers from 0 up.")
    return labels


def _legacy(seed):
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed is {seed}; a legacy generator takes 0 to 2³² - 1.")
    return np.random.RandomState(seed)


def _torch_permutation(n, seed):
    """`torch.randperm(n)` on the CPU after `manual_seed(seed)`, for n below 2³² / 20."""
    words = _legacy(seed).randint(0, 2**32, size=n, dtype=np.uint32).tolist()
    order = list(range(n))
    for i in range(n - 1):
        j = i + words[i] % (n - i)
        order[i], order[j] = order[j], order[i]
    return np.array(order)
