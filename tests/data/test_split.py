import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.data import CIFAR100_COARSE, SCENARIOS, check_split, finish_split, make_split
from clujax.data.split import split_hash
from clujax.errors import RequestError

LABELS = np.arange(20) % 4
COARSE = (0, 0, 1, 1)
SCORES = np.array([0.9, 0.1, 0.5, 0.5, 0.0, 0.3, 0.7, 1.0, 0.2, 0.6, 0.8, 0.4])
TWELVE = np.zeros(12, int)
WRITERS = np.repeat(["ann", "bob", "cy", "dee"], 5)


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
        (
            {"scenario": "subclass", "classes": (1,), "coarse_map": COARSE},
            [1, 5, 9, 13, 17],
            "df050b920333df94bbb25068d9e8098a93397cfee9852fbc8e8a123824b2715c",
        ),
        (
            {"scenario": "confused", "classes": (3, 0), "fraction": 0.4},
            [3, 4, 16, 19],
            "732fa010bdb4c6085216239349d8a2e40cfad7cb46454967cac411cb12594771",
        ),
        (
            {"scenario": "poisoned", "target": 2, "fraction": 0.2},
            [4, 13, 19],
            "2fdba46860f7c45cf5fbcf51ceac2cb6fb9a902f559023e1651b3274896eb158",
        ),
        (
            {"scenario": "group", "groups": WRITERS, "members": ("bob",)},
            [5, 6, 7, 8, 9],
            "f32a7436def5b2f5610c50210c0b5e7ab50f25365d2b7a207feae6d5e8b7dc27",
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


def test_a_subclass_split_is_the_rows_of_fine_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = make_split(LABELS, "subclass", classes=[1], coarse_map=COARSE)
    np.testing.assert_array_equal(found.forget, np.flatnonzero(LABELS == 1))
    assert found.hash != make_split(LABELS, "class", classes=[1]).hash


def test_a_coarse_class_that_is_forgotten_whole_warns():
    with pytest.warns(UserWarning, match=r"fine classes \[3, 2\] are all there is of coarse classes \[1\]"):
        found = make_split(LABELS, "subclass", classes=[3, 2], coarse_map=COARSE)
    assert set(LABELS[found.forget]) == {2, 3}


def test_cifar_100_has_five_fine_classes_to_a_coarse_one():
    np.testing.assert_array_equal(np.bincount(CIFAR100_COARSE), [5] * 20)
    # rocket, sea, mushroom, baby, lamp: vehicles 2, natural scenes, fruit and vegetables, people, electrical devices
    assert [CIFAR100_COARSE[fine] for fine in (69, 71, 51, 2, 40)] == [19, 10, 4, 14, 5]


@given(st.integers(12, 60), st.floats(0.2, 0.7), st.integers(0, 99))
def test_a_confused_split_takes_the_same_part_of_two_classes(rows, fraction, seed):
    labels = np.arange(rows) % 3
    found = make_split(labels, "confused", classes=(2, 0), fraction=fraction, seed=seed)
    sizes = np.bincount(labels)
    np.testing.assert_array_equal(
        np.bincount(labels[found.forget], minlength=3), [round(fraction * sizes[0]), 0, round(fraction * sizes[2])]
    )


@given(st.integers(8, 60), st.floats(0.1, 0.7), st.integers(0, 3), st.integers(0, 99))
def test_a_poisoned_split_leaves_the_target_class_alone(rows, fraction, target, seed):
    labels = np.arange(rows) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = make_split(labels, "poisoned", target=target, fraction=fraction, seed=seed)
    assert not (labels[found.forget] == target).any()
    assert len(found.forget) == round(fraction * (labels != target).sum())


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"stratum": "low"}, [0.0, 0.1, 0.2, 0.3]),
        ({"stratum": "mid"}, [0.4, 0.5, 0.5, 0.6]),
        ({"stratum": "high"}, [0.7, 0.8, 0.9, 1.0]),
        ({"stratum": 0, "count": 2}, [0.0, 0.1]),
        ({"stratum": 1, "count": 2}, [0.5, 0.5]),
        ({"stratum": 2, "fraction": 0.5}, [0.9, 1.0]),
        ({"stratum": 2, "fraction": 1.0}, [0.7, 0.8, 0.9, 1.0]),
        ({"stratum": 3, "strata": 4}, [0.8, 0.9, 1.0]),
        ({"stratum": 0, "strata": 2, "count": 1}, [0.0]),
    ],
)
def test_strata_are_cut_by_rank(options, scores):
    found = make_split(TWELVE, "memorization", scores=SCORES, **options)
    np.testing.assert_array_equal(np.sort(SCORES[found.forget]), scores)


@given(st.permutations(range(10)), st.integers(2, 5))
def test_strata_part_the_rows_and_see_ranks_alone(ranks, strata):
    scores, labels = np.array(ranks) / 7, np.zeros(10, int)

    def cut(values):
        return [make_split(labels, "memorization", scores=values, stratum=i, strata=strata) for i in range(strata)]

    found = cut(scores)
    np.testing.assert_array_equal(np.sort(np.concatenate([part.forget for part in found])), np.arange(10))
    for low, high in itertools.pairwise(found):
        assert scores[low.forget].max() < scores[high.forget].min()
    assert [part.hash for part in cut(np.exp(3 * scores))] == [part.hash for part in found]


def test_tied_scores_are_cut_in_the_order_of_rows():
    found = make_split(TWELVE, "memorization", scores=TWELVE, stratum="mid")
    assert found.forget.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("members", [("bob", "dee"), np.array(["dee", "bob"])])
def test_a_group_split_is_every_row_of_the_members(members):
    found = make_split(LABELS, "group", groups=WRITERS, members=members)
    assert set(WRITERS[found.forget]) == {"bob", "dee"}
    assert set(WRITERS[found.remain]) == {"ann", "cy"}


@given(st.integers(0, 2**32), st.sampled_from(SCENARIOS), st.integers(3, 15))
def test_every_scenario_parts_the_rows_and_is_a_function_of_its_seed(seed, scenario, per_class):
    labels = np.random.default_rng(1).permutation(np.arange(4 * per_class) % 4)
    options = {
        "random": {"fraction": 0.3},
        "class": {"classes": [1]},
        "incremental": {"fraction": 0.3, "step": 0, "steps": 2},
        "subclass": {"classes": [1], "coarse_map": COARSE},
        "confused": {"classes": [0, 3], "fraction": 0.3},
        "poisoned": {"target": 1, "fraction": 0.3},
        "memorization": {"scores": np.sin(labels + np.arange(len(labels))), "stratum": "high"},
        "group": {"groups": np.arange(len(labels)) // 4, "members": [1]},
    }[scenario]
    found, again = (make_split(labels, scenario, seed=seed, **options) for _ in range(2))
    assert found.hash == again.hash
    np.testing.assert_array_equal(np.sort(np.concatenate([found.forget, found.remain])), np.arange(len(labels)))
    other = make_split(labels, scenario, seed=seed + 1, **options)
    drawn = scenario in ("random", "incremental", "confused", "poisoned")
    assert drawn or other.hash == found.hash
    assert (other.hash == found.hash) == np.array_equal(other.forget, found.forget)


@pytest.mark.filterwarnings("ignore:.*more than half")
@given(st.permutations(range(8)), st.integers(1, 6), st.integers(0, 7))
def test_a_finished_split_is_blind_to_order_and_sees_every_row(rows, size, moved):
    found = finish_split(rows[:size], 8, "any")
    assert found.hash == finish_split(rows[:size][::-1], 8, "any").hash
    np.testing.assert_array_equal(found.forget, np.sort(rows[:size]))
    changed = sorted({*rows[:size]} ^ {moved})
    if changed and len(changed) < 8:
        assert finish_split(changed, 8, "any").hash != found.hash


def test_rows_that_are_gone_are_in_neither_part():
    found = finish_split([3, 0], 6, "any", gone=[5, 1])
    assert found.forget.tolist() == [0, 3]
    assert found.remain.tolist() == [2, 4]


def test_forgetting_more_than_half_warns():
    with pytest.warns(UserWarning, match="12 of 20 rows are to be forgotten, more than half"):
        make_split(LABELS, "random", fraction=0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_split(LABELS, "random", fraction=0.5)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (
            LABELS,
            {"scenario": "all"},
            r"scenario is 'all'; expected one of \('random', 'class', 'incremental', 'subclass'",
        ),
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
        (
            LABELS,
            {"scenario": "class", "classes": range(4)},
            r"remain is empty: classes \[0, 1, 2, 3\] are all there are",
        ),
        (LABELS * 0, {"scenario": "class", "classes": [0]}, r"remain is empty: classes \[0\] are all there are"),
        (
            LABELS,
            {"scenario": "random", "fraction": 0.1, "classes": [1]},
            r"a random split has no use for classes; it takes",
        ),
        (LABELS, {"scenario": "class", "classes": [1], "stratified": True}, r"a class split has no use for stratified"),
        (LABELS, {"scenario": "subclass", "classes": [1]}, r"coarse_map is None; a subclass split needs a list"),
        (LABELS, {"scenario": "subclass", "classes": [1], "coarse_map": []}, r"coarse_map is \[\]"),
        (LABELS, {"scenario": "subclass", "classes": [1], "coarse_map": np.array([], int)}, r"coarse_map is \[\]"),
        (LABELS, {"scenario": "subclass", "classes": [1], "coarse_map": np.eye(4)[0]}, r"coarse_map is \[1\."),
        (LABELS, {"scenario": "subclass", "classes": [1], "coarse_map": [0, -1, 0, 0]}, r"coarse_map is \[0, -1"),
        (LABELS, {"scenario": "subclass", "classes": [1], "coarse_map": [0, 1, 0]}, r"has 3 entries; .* which needs 4"),
        (LABELS, {"scenario": "subclass", "coarse_map": COARSE}, r"classes is None; a subclass split needs"),
        (LABELS, {"scenario": "subclass", "classes": [9], "coarse_map": COARSE}, r"classes \[9\] are absent"),
        (LABELS, {"scenario": "subclass", "classes": range(4), "coarse_map": COARSE}, r"remain is empty"),
        (LABELS, {"scenario": "confused", "classes": [0, 1]}, r"fraction is None; a confused split"),
        (LABELS, {"scenario": "confused", "classes": [0, 1], "fraction": 1.0}, r"fraction is 1\.0"),
        (LABELS, {"scenario": "confused", "fraction": 0.5}, r"classes is None; a confused split needs the two classes"),
        (LABELS, {"scenario": "confused", "classes": [0, 1, 2], "fraction": 0.5}, r"needs the two classes"),
        (LABELS, {"scenario": "confused", "classes": [1, 1], "fraction": 0.5}, r"needs the two classes"),
        (LABELS, {"scenario": "confused", "classes": [1, 7], "fraction": 0.5}, r"classes \[7\] are absent"),
        (LABELS, {"scenario": "confused", "classes": [1, 2], "fraction": 0.05}, r"forget is empty of classes \[1, 2\]"),
        (
            LABELS,
            {"scenario": "poisoned", "fraction": 0.5},
            r"target is None; a poisoned split needs one of the labels",
        ),
        (LABELS, {"scenario": "poisoned", "fraction": 0.5, "target": 4}, r"target is 4; .* present: \[0, 1, 2, 3\]"),
        (LABELS, {"scenario": "poisoned", "fraction": -0.1, "target": 1}, r"fraction is -0\.1; a poisoned split"),
        (LABELS, {"scenario": "poisoned", "fraction": 0.01, "target": 1}, r"forget is empty"),
        (TWELVE, {"scenario": "memorization", "stratum": 0}, r"scores is None; .* needs \[12\] finite numbers"),
        (TWELVE, {"scenario": "memorization", "stratum": 0, "scores": SCORES[:5]}, r"scores is of shape \(5,\)"),
        (TWELVE, {"scenario": "memorization", "stratum": 0, "scores": SCORES * np.nan}, r"12\] finite numbers"),
        (TWELVE, {"scenario": "memorization", "stratum": 0, "scores": SCORES.astype(str)}, r"dtype <U"),
        (TWELVE, {"scenario": "memorization", "scores": SCORES}, r"stratum is None; expected 0 … 2"),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": 3}, r"stratum is 3; expected 0 … 2"),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": "some"}, r"stratum is 'some'"),
        (
            TWELVE,
            {"scenario": "memorization", "scores": SCORES, "stratum": "low", "strata": 4},
            r"low, mid or high of 3",
        ),
        (
            TWELVE,
            {"scenario": "memorization", "scores": SCORES, "stratum": 0, "strata": 1},
            r"strata is 1; expected from 2",
        ),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": 0, "strata": 13}, r"strata is 13"),
        (
            TWELVE,
            {"scenario": "memorization", "scores": SCORES, "stratum": 0, "count": 5},
            r"count is 5; stratum 0 has 4",
        ),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": 0, "count": 0}, r"forget is empty"),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": 0, "count": -1}, r"count is -1"),
        (TWELVE, {"scenario": "memorization", "scores": SCORES, "stratum": 0, "fraction": 1.5}, r"fraction is 1\.5"),
        (
            TWELVE,
            {"scenario": "memorization", "scores": SCORES, "stratum": 0, "fraction": 0.5, "count": 1},
            r"both given",
        ),
        (LABELS, {"scenario": "group", "members": ["ann"]}, r"groups is None; a group split needs \[20\]"),
        (LABELS, {"scenario": "group", "members": ["ann"], "groups": WRITERS[:3]}, r"groups is of shape \(3,\)"),
        (LABELS, {"scenario": "group", "groups": WRITERS}, r"members is None; a group split needs a list"),
        (LABELS, {"scenario": "group", "groups": WRITERS, "members": []}, r"members is \[\]"),
        (
            LABELS,
            {"scenario": "group", "groups": WRITERS, "members": ["ann", "eve"]},
            r"members \['eve'\] are absent; the groups present are 'ann', 'bob', 'cy', 'dee'\.",
        ),
        (
            LABELS,
            {"scenario": "group", "groups": np.arange(20), "members": [20]},
            r"the groups present are 0, 1, .* 9, … \(20 of them\)",
        ),
        (
            LABELS,
            {"scenario": "group", "groups": WRITERS, "members": ["ann", "bob", "cy", "dee"]},
            r"remain is empty: members",
        ),
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
