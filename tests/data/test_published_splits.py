"""Published splits against plain numpy and Python, and against outputs of PyTorch that are known."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.data import PUBLISHED, kit_halves
from clujax.data.published_splits import kit, muso, salun, salun_validation, sfron, ssd
from clujax.errors import RequestError

LABELS = np.random.default_rng(0).permutation(np.arange(600) % 10)
OPTIONS = {
    "salun": {"count": 54},
    "muso": {"fraction": 0.1},
    "sfron": {"fraction": 0.1},
    "ssd": {"fraction": 0.1},
    "kit": {"rows": [3, 1, 2]},
}


def digest(rows):
    return hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()[:16]


def salun_by_hand(labels, count, seed):
    """Held-out rows, class by class; then positions among the rest, kept ascending."""
    generator = np.random.RandomState(seed)
    held = np.hstack(
        [
            generator.choice(np.where(labels == c)[0], int(0.1 * (labels == c).sum()), replace=False)
            for c in range(labels.max() + 1)
        ]
    )
    trained = np.array(sorted(set(range(len(labels))) - set(held.tolist())))
    drawn = np.random.RandomState(seed - 1).choice(np.arange(len(trained)), size=count, replace=False)
    return held, trained, trained[drawn]


@pytest.mark.parametrize("seed", [2, 7])
def test_salun_draws_from_the_rows_that_are_not_held_out(seed):
    held, trained, forget = salun_by_hand(LABELS, 54, seed)
    found = salun(LABELS, count=54, seed=seed)
    np.testing.assert_array_equal(salun_validation(LABELS, seed), np.sort(held))
    np.testing.assert_array_equal(found.forget, np.sort(forget))
    np.testing.assert_array_equal(found.remain, np.setdiff1d(trained, forget))
    assert len(held) == 60
    assert found.scenario == "salun"


def test_salun_forgets_a_class_or_rows_of_it():
    _, trained, _ = salun_by_hand(LABELS, 1, 2)
    whole = salun(LABELS, forget_class=4)
    np.testing.assert_array_equal(whole.forget, trained[LABELS[trained] == 4])
    part = salun(LABELS, forget_class=4, count=20)
    drawn = np.random.RandomState(1).choice(np.flatnonzero(LABELS[trained] == 4), size=20, replace=False)
    np.testing.assert_array_equal(part.forget, np.sort(trained[drawn]))
    for found in (whole, part):
        np.testing.assert_array_equal(np.sort(np.concatenate([found.forget, found.remain])), trained)


def test_salun_may_hold_nothing_out():
    found = salun(LABELS, count=10, part=0)
    assert len(found.forget) + len(found.remain) == len(LABELS)
    assert salun_validation(LABELS, part=0.0).size == 0


def test_muso_takes_the_first_rows_of_each_shuffled_class():
    generator = np.random.RandomState(42)
    forget = []
    for c in range(10):
        rows = np.flatnonzero(np.isin(LABELS, c))
        generator.shuffle(rows)
        forget.append(rows[:6])
    found = muso(LABELS, fraction=0.1)
    np.testing.assert_array_equal(found.forget, np.sort(np.concatenate(forget)))
    np.testing.assert_array_equal(np.bincount(LABELS[found.forget]), [6] * 10)


@pytest.mark.parametrize("seed", [0, 42])
def test_sfron_slices_pythons_shuffle(seed):
    order = list(range(600))
    random.seed(seed)
    random.shuffle(order)
    gone = []
    for step in range(3):
        found = sfron(LABELS, fraction=0.1, seed=seed, step=step)
        assert found.forget.tolist() == sorted(order[60 * step : 60 * (step + 1)])
        assert found.remain.tolist() == sorted(order[60 * (step + 1) :])
        gone += found.forget.tolist()
    assert len(set(gone)) == 180


@pytest.mark.parametrize(
    ("seed", "order"),
    [
        (0, [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]),
        (1, [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]),
        (42, [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]),
    ],
)
def test_halves_are_those_of_pytorchs_permutation(seed, order):
    test, validation = kit_halves(10, seed)
    assert test.tolist() == sorted(order[:5])
    assert validation.tolist() == sorted(order[5:])
    assert ssd(np.zeros(10, int), fraction=0.3, seed=seed).forget.tolist() == sorted(order[:3])


def test_the_first_half_has_the_odd_row():
    test, validation = kit_halves(11)
    assert (len(test), len(validation)) == (6, 5)
    np.testing.assert_array_equal(np.sort(np.concatenate([test, validation])), np.arange(11))


@pytest.mark.parametrize(
    ("rows", "fraction", "size"), [(10, 0.25, 3), (10, 0.3, 3), (8, 0.25, 2), (11, 0.5, 6), (1000, 0.00165, 2)]
)
def test_ssd_rounds_as_pytorch_does(rows, fraction, size):
    assert len(ssd(np.zeros(rows, int), fraction=fraction).forget) == size


def test_ssd_forgets_83_rows_of_cifar_10():
    assert len(ssd(np.zeros(50_000, int), fraction=0.00165).forget) == 83


def test_kit_takes_the_rows_of_its_file():
    found = kit(LABELS, rows=np.array([5, 2, 9]))
    assert found.forget.tolist() == [2, 5, 9]
    assert len(found.remain) == 597


@pytest.mark.parametrize(
    ("name", "options", "size", "rows"),
    [
        ("salun", {"count": 4500}, 4500, "7f8bf3438e2d05e5"),
        ("salun", {"forget_class": 0}, 4500, "74cdd7062f895af6"),
        ("muso", {"fraction": 0.1}, 5000, "f04a9a01432cd26e"),
        ("sfron", {"fraction": 0.1}, 5000, "563adb8e508cda3b"),
    ],
)
def test_rows_at_the_published_size_do_not_change(name, options, size, rows):
    labels = np.arange(50_000) % 10
    found = PUBLISHED[name](labels, **options)
    assert len(found.forget) == size
    assert digest(found.forget) == rows


@given(st.sampled_from(sorted(PUBLISHED)))
def test_published_splits_are_the_same_at_every_call_and_part_their_rows(name):
    found, again = (PUBLISHED[name](LABELS, **OPTIONS[name]) for _ in range(2))
    assert found.hash == again.hash
    both = np.concatenate([found.forget, found.remain])
    assert len(np.unique(both)) == len(both) == (540 if name == "salun" else 600)


@pytest.mark.parametrize("name", ["muso", "sfron", "ssd", "salun"])
def test_another_seed_makes_another_split(name):
    assert PUBLISHED[name](LABELS, **OPTIONS[name], seed=5).hash != PUBLISHED[name](LABELS, **OPTIONS[name]).hash


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("salun", {}, "count and forget_class are None"),
        ("salun", {"count": 0}, "count is 0; expected from 1 to the 540 rows"),
        ("salun", {"count": 541}, "count is 541"),
        ("salun", {"count": 540}, "remain is empty"),
        ("salun", {"count": 5, "seed": 0}, "seed is 0; salun draws with seed - 1"),
        ("salun", {"count": 5, "seed": 2**32}, "seed is 4294967296; a legacy generator"),
        ("salun", {"count": 5, "part": 1.0}, r"part is 1\.0; expected a number in \[0, 1\)"),
        ("salun", {"forget_class": 10}, r"classes \[10\] are absent"),
        ("salun", {"forget_class": 3, "count": 55}, "count is 55; expected from 1 to the 54 rows"),
        ("muso", {"fraction": 0.0}, r"fraction is 0\.0; a muso split"),
        ("muso", {"fraction": 0.001}, "forget is empty"),
        ("muso", {"fraction": 0.1, "seed": -1}, "seed is -1"),
        ("sfron", {"fraction": 1.0}, r"fraction is 1\.0"),
        ("sfron", {"fraction": 0.4, "step": 2}, "step is 2; 600 rows are 2 slices of 240"),
        ("sfron", {"fraction": 0.4, "step": -1}, "step is -1"),
        ("sfron", {"fraction": 0.001}, "forget is empty"),
        ("ssd", {"fraction": 2.0}, r"fraction is 2\.0"),
        ("kit", {"rows": [600]}, r"expected rows in \[0, 600\)"),
        ("kit", {"rows": [1, 1]}, "names a row twice"),
        ("kit", {"rows": [0.5]}, "integer row numbers"),
        ("kit", {"rows": []}, "forget is empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*more than half")
def test_published_splits_that_cannot_be_drawn(name, options, message):
    with pytest.raises(RequestError, match=message):
        PUBLISHED[name](LABELS, **options)


@pytest.mark.parametrize("labels", [LABELS * 1.0, LABELS[:, None], LABELS - 1, LABELS[:0]])
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_labels_must_be_integers_from_zero(name, labels):
    with pytest.raises(RequestError, match=r"expected \[N\] integers from 0 up"):
        PUBLISHED[name](labels, **OPTIONS[name])


@pytest.mark.parametrize("rows", [0, 1])
def test_halves_need_two_rows(rows):
    with pytest.raises(RequestError, match=f"num_test is {rows}"):
        kit_halves(rows)
