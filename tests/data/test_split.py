import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.data import check_split, make_split
from clujax.data.split import split_hash
from clujax.errors import RequestError

LABELS = np.arange(20) % 4


@pytest.mark.parametrize(
    ("options", "forget", "digest"),
    [
        (
            {"scenario": "random", "fraction": 0.25, "seed": 3},
            [3, 8, 12, 16, 18],
            "40a34f2fdc162123c00c476ccf3d986aebb022ef596abdf49f113e8118ee0f90",
        ),
        (
            {"scenario": "random", "fraction": 0.25, "seed": 3, "stratified": True},
            [3, 13, 16, 18],
            "4a4c54019964e83e71a7fa027ef077e3027487ff5d140a2fb3e641248fb2534b",
        ),
        (
            {"scenario": "class", "classes": [1]},
            [1, 5, 9, 13, 17],
            "ec085dcc3950d2e999722a4f9a7efdaa9fd9598ef4993855a0fce7d6b0149a3e",
        ),
        (
            {"scenario": "incremental", "steps": 4, "step": 1, "fraction": 0.5},
            [2, 13, 16],
            "8290eccfbd2279f375f53ed017e60cc521934de7959a1b6d9622bd69fcc13427",
        ),
    ],
)
def test_rows_and_hashes_do_not_change_from_release_to_release(options, forget, digest):
    found = make_split(LABELS, **options)
    assert found.forget.tolist() == forget
    assert found.hash == digest
    assert found.scenario == options["scenario"]


@given(
    rows=st.integers(4, 60),
    classes=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0.01, 0.5),
    stratified=st.booleans(),
)
def test_a_random_split_parts_the_rows(rows, classes, seed, fraction, stratified):
    labels = np.arange(rows) % classes
    try:
        found = make_split(labels, "random", seed=seed, fraction=fraction, stratified=stratified)
    except RequestError as error:
        assert "forget is empty" in str(error)  # noqa: PT017
        return
    np.testing.assert_array_equal(np.sort(np.concatenate([found.forget, found.remain])), np.arange(rows))
    assert (np.diff(found.forget) > 0).all()
    assert (np.diff(found.remain) > 0).all()
    wanted = np.round(fraction * np.bincount(labels)) if stratified else np.array([round(fraction * rows)])
    got = np.bincount(labels[found.forget], minlength=classes) if stratified else np.array([len(found.forget)])
    np.testing.assert_array_equal(got, wanted)
    assert make_split(labels, "random", seed=seed, fraction=fraction, stratified=stratified).hash == found.hash


def test_another_seed_makes_another_split():
    hashes = {make_split(LABELS, "random", fraction=0.25, seed=seed).hash for seed in range(8)}
    assert len(hashes) == 8


@pytest.mark.parametrize("classes", [[2], (0, 2), np.array([0, 2])])
def test_class_split_is_every_row_of_the_classes_and_no_other(classes):
    found = make_split(LABELS, "class", classes=classes)
    assert set(LABELS[found.forget]) == set(classes)
    assert not set(LABELS[found.remain]) & set(classes)
    assert len(found.forget) + len(found.remain) == len(LABELS)


@given(st.integers(10, 60), st.integers(1, 5), st.floats(0.5, 0.9), st.integers(0, 99))
def test_incremental_slices_part_the_rows_to_forget(rows, steps, fraction, seed):
    labels = np.zeros(rows, int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slices = [
            make_split(labels, "incremental", step=i, steps=steps, fraction=fraction, seed=seed) for i in range(steps)
        ]
    forgotten = np.concatenate([found.forget for found in slices])
    assert len(np.unique(forgotten)) == len(forgotten) == round(fraction * rows)
    for i, found in enumerate(slices):
        gone = np.concatenate([np.array([], int), *(before.forget for before in slices[:i])])
        np.testing.assert_array_equal(np.sort(np.concatenate([found.forget, found.remain, gone])), np.arange(rows))
    np.testing.assert_array_equal(np.sort(np.concatenate([forgotten, slices[-1].remain])), np.arange(rows))


def test_an_incremental_split_takes_all_rows_by_default_and_so_leaves_none_at_its_last_step():
    first = make_split(LABELS, "incremental", step=0, steps=4)
    assert len(first.forget) == 5
    with pytest.raises(RequestError, match="remain is empty"):
        make_split(LABELS, "incremental", step=3, steps=4)


def test_forgetting_more_than_half_warns():
    with pytest.warns(UserWarning, match="12 of 20 rows are to be forgotten, more than half"):
        make_split(LABELS, "random", fraction=0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_split(LABELS, "random", fraction=0.5)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABELS, {"scenario": "all"}, r"scenario is 'all'; expected one of \('random', 'class', 'incremental'\)"),
        (LABELS[:, None], {"scenario": "random", "fraction": 0.1}, r"labels has shape \(20, 1\)"),
        (LABELS * 1.0, {"scenario": "random", "fraction": 0.1}, r"dtype float64; expected \[N\] integers"),
        (LABELS, {"scenario": "random"}, r"fraction is None; a random split needs a number in \(0, 1\)"),
        (LABELS, {"scenario": "random", "fraction": 0.0}, r"fraction is 0\.0"),
        (LABELS, {"scenario": "random", "fraction": 1.0}, r"fraction is 1\.0"),
        (LABELS, {"scenario": "random", "fraction": float("nan")}, r"fraction is nan"),
        (LABELS, {"scenario": "random", "fraction": 0.01}, r"forget is empty; of 20 rows at least one"),
        (LABELS, {"scenario": "random", "fraction": 0.99}, r"remain is empty"),
        (LABELS, {"scenario": "random", "fraction": 0.1, "seed": -1}, r"seed is -1; expected at least 0"),
        (LABELS, {"scenario": "class"}, r"a class split needs a list of the labels"),
        (LABELS, {"scenario": "class", "classes": np.array(1)}, r"classes is 1; a class split needs a list"),
        (LABELS, {"scenario": "class", "classes": []}, r"a class split needs a list of the labels"),
        (
            LABELS,
            {"scenario": "class", "classes": [1, 7]},
            r"classes \[7\] are absent; the labels present are \[0, 1, 2, 3\]",
        ),
        (LABELS, {"scenario": "class", "classes": range(4)}, r"remain is empty"),
        (LABELS, {"scenario": "incremental", "step": 0}, r"step is 0 of steps None"),
        (LABELS, {"scenario": "incremental", "steps": 3}, r"step is None of steps 3"),
        (LABELS, {"scenario": "incremental", "step": 3, "steps": 3}, r"0 <= step < steps"),
        (LABELS, {"scenario": "incremental", "step": -1, "steps": 3}, r"step is -1"),
        (LABELS, {"scenario": "incremental", "step": 0, "steps": 3, "fraction": 1.5}, r"fraction is 1\.5"),
        (LABELS, {"scenario": "incremental", "step": 29, "steps": 30, "fraction": 0.5}, r"forget is empty"),
        (np.array([], int), {"scenario": "random", "fraction": 0.5}, r"forget is empty; of 0 rows"),
    ],
)
def test_requests_that_cannot_be_carried_out(labels, options, message):
    with pytest.raises(RequestError, match=message):
        make_split(labels, **options)


@pytest.mark.parametrize(
    ("forget", "remain", "message"),
    [
        ([], [1], "forget is empty; of 5 rows"),
        ([1], [], "remain is empty"),
        ([1, 5], [2], r"forget has row 1 … 5; expected rows in \[0, 5\)"),
        ([1], [-1, 2], r"remain has row -1 … 2"),
        ([1, 1], [2], "forget names a row twice"),
        ([1, 2], [3, 2], r"1 rows are in both forget and remain \(first: \[2\]\)"),
    ],
)
def test_parts_that_are_no_split(forget, remain, message):
    with pytest.raises(RequestError, match=message):
        check_split(np.array(forget, int), np.array(remain, int), 5)


@pytest.mark.parametrize("forget", [np.array([0.5]), np.array([True, False]), np.array([[0]])])
def test_rows_are_named_by_numbers(forget):
    with pytest.raises(RequestError, match=r"forget has shape .*; expected \[n\] integer row numbers"):
        check_split(forget, np.array([1]), 5)


def test_a_good_split_passes_and_may_leave_rows_out():
    check_split([0, 4], [1, 2], 5)


def test_the_hash_is_of_the_sets_and_the_scenario():
    assert split_hash([3, 1], [0, 2], "random") == split_hash(np.array([1, 3], np.int32), [2, 0], "random")
    others = {
        split_hash([1, 3], [0, 2], "class"),
        split_hash([1], [0, 2, 3], "random"),
        split_hash([0, 2], [1, 3], "random"),
    }
    assert len(others | {split_hash([1, 3], [0, 2], "random")}) == 4
