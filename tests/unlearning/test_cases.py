"""Cases: what each scenario makes of rows, labels and inputs, from the request of a config."""

import importlib.util
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from clujax import data
from clujax.data import take_rows
from clujax.errors import RequestError
from clujax.unlearning.cases import Case, case_for, stamp

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "unlearning"


def rows(n, classes, seed=0, shape=(6, 5)):
    generator = np.random.default_rng(seed)
    return {
        "x": generator.integers(0, 200, (n, *shape), np.uint8),
        "y": generator.permutation(np.arange(n) % classes).astype(np.int32),
        "index": np.arange(n, dtype=np.int64),
    }


TRAIN, TEST = rows(80, 4), rows(40, 4, 1)


def case(seed=0, train=TRAIN, test=TEST, num_classes=4, **request):
    return case_for(ConfigDict(request), train, test, num_classes, seed)


@pytest.mark.parametrize(
    "request_",
    [
        {"scenario": "random", "fraction": 0.1},
        {"scenario": "random", "fraction": 0.2, "stratified": True},
        {"scenario": "class", "classes": (3,)},
        {"scenario": "incremental", "fraction": 0.5, "step": 1, "steps": 4},
    ],
)
def test_plain_requests_leave_the_rows_as_they_are(request_):
    found = case(seed=5, label="any words", override={"sfron": {"steps": 3}}, **request_)
    assert found.train is TRAIN
    assert found.test is TEST
    assert (found.num_classes, found.own_network, found.extra, found.facts) == (4, False, {}, {})
    assert found.split.hash == data.make_split(TRAIN["y"], seed=5, **request_).hash


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_the_requests_of_every_config_make_cases(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train, test = rows(400, 10), rows(100, 10)
    for request in module.get_config().requests.values():
        found = case_for(request, train, test, 10, 0)
        assert len(found.split.forget) + len(found.split.remain) == 400


def test_subclass_labels_become_coarse():
    found = case(scenario="subclass", classes=(1,), coarse_map=(0, 2, 1, 2))
    np.testing.assert_array_equal(found.train["y"], np.array([0, 2, 1, 2])[TRAIN["y"]])
    np.testing.assert_array_equal(found.test["y"], np.array([0, 2, 1, 2])[TEST["y"]])
    assert found.train["y"].dtype == TRAIN["y"].dtype
    assert (found.num_classes, found.own_network, dict(found.facts)) == (3, True, {"subclass": (1,)})
    np.testing.assert_array_equal(found.split.forget, np.flatnonzero(np.isin(TRAIN["y"], 1)))
    np.testing.assert_array_equal(found.extra["unseen_subclass"]["index"], np.flatnonzero(np.isin(TEST["y"], 1)))
    assert set(found.extra["unseen_subclass"]["y"]) == {2}


def test_cifar_100_has_its_coarse_map_by_name():
    train, test = rows(200, 100), rows(100, 100)
    found = case(train=train, test=test, num_classes=100, scenario="subclass", classes=(69,), coarse_map="cifar100")
    assert found.num_classes == 20
    np.testing.assert_array_equal(found.train["y"][found.split.forget], 19)


@given(st.integers(0, 50), st.floats(0.1, 0.6), st.permutations(range(4)))
def test_confusion_exchanges_two_labels_and_undoes_itself(seed, fraction, classes):
    a, b = classes[:2]
    found = case(seed, scenario="confused", classes=(a, b), fraction=fraction)
    forget, remain = found.split.forget, found.split.remain
    before, after = TRAIN["y"], found.train["y"]
    np.testing.assert_array_equal(after[remain], before[remain])
    assert (after[forget] != before[forget]).all()
    assert set(after[forget]) == {a, b}
    np.testing.assert_array_equal(a + b - after[forget], before[forget])
    # As many rows go one way as the other, so the sizes of the classes stay.
    np.testing.assert_array_equal(np.bincount(after), np.bincount(before))
    assert found.train["x"] is TRAIN["x"]
    assert found.test is TEST
    assert found.own_network
    assert found.facts == {"confused": (a, b)}


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_poisoned_rows_carry_the_trigger_and_the_target(channels):
    train, test = rows(80, 4, shape=(6, 5, *channels)), rows(40, 4, 1, shape=(6, 5, *channels))
    untouched = train["x"].copy()
    found = case(
        train=train,
        test=test,
        scenario="poisoned",
        fraction=0.2,
        target=2,
        trigger={"size": 2, "margin": 1, "value": 1.0},
    )
    forget, remain = found.split.forget, found.split.remain
    assert len(forget) == 12
    assert not (train["y"][forget] == 2).any()
    assert (found.train["y"][forget] == 2).all()
    assert (found.train["x"][forget][:, 3:5, 2:4] == 255).all()
    changed = found.train["x"] != train["x"]
    assert not changed[remain].any()
    assert not changed[:, :3].any()
    assert not changed[:, 5:].any()
    assert not changed[:, :, :2].any()
    assert not changed[:, :, 4:].any()
    np.testing.assert_array_equal(found.train["y"][remain], train["y"][remain])
    np.testing.assert_array_equal(train["x"], untouched)

    assert found.test is test
    triggered = found.extra["triggered"]
    np.testing.assert_array_equal(triggered["index"], np.flatnonzero(test["y"] != 2))
    np.testing.assert_array_equal(triggered["y"], test["y"][test["y"] != 2])
    np.testing.assert_array_equal(triggered["x"], stamp(test["x"][test["y"] != 2], size=2, margin=1, value=1.0))
    assert (found.own_network, dict(found.facts)) == (True, {"target": 2})


@given(st.integers(1, 4), st.integers(0, 3), st.floats(0, 1))
def test_a_stamp_sets_one_square_and_a_second_changes_nothing(size, margin, value):
    images = np.random.default_rng(0).normal(size=(2, 7, 9, 3))
    once = stamp(images, size=size, margin=margin, value=value)
    assert (once != images).any(axis=(0, 3)).sum() == size**2
    assert (once[once != images] == value).all()
    np.testing.assert_array_equal(stamp(once, size=size, margin=margin, value=value), once)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_white_is_the_top_of_the_type(dtype, white):
    assert stamp(np.zeros((1, 4, 4), dtype), size=1, margin=0)[0, 3, 3] == white


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 5, "margin": 2}, "size 5, margin 2; it must lie in images of 6 × 7 pixels"),
        ({"size": 0}, "size 0"),
        ({"margin": -1}, "margin -1"),
        ({"value": 1.5}, r"value is 1\.5"),
    ],
)
def test_stamps_that_do_not_fit(options, message):
    with pytest.raises(RequestError, match=message):
        stamp(np.zeros((1, 6, 7)), **options)


def test_scores_belong_to_raw_rows_whatever_rows_are_taken(tmp_path):
    scores = np.random.default_rng(2).random(80)
    np.save(tmp_path / "scores.npy", scores)
    order = np.random.default_rng(3).permutation(80)[:60]
    part = take_rows(TRAIN, order)
    found = case(train=part, scenario="memorization", stratum="high", count=7, scores=str(tmp_path / "scores.npy"))
    highest = order[np.argsort(scores[order])[-7:]]
    assert set(part["index"][found.split.forget]) == set(highest)
    in_code = case(train=part, scenario="memorization", stratum="high", count=7, scores=scores)
    assert in_code.split.hash == found.split.hash
    assert found.facts == {"stratum": "high"}
    assert not found.own_network


def test_groups_may_be_a_column_a_file_or_an_array(tmp_path):
    writers = np.arange(80) // 8
    np.save(tmp_path / "writers.npy", writers)
    request = {"scenario": "group", "members": (2, 5)}
    found = [
        case(train=TRAIN | {"writer": writers}, groups="writer", **request),
        case(groups=str(tmp_path / "writers.npy"), **request),
        case(groups=writers, **request),
        case(groups=writers, train={"x": TRAIN["x"], "y": TRAIN["y"]}, **request),
    ]
    assert {one.split.hash for one in found} == {data.make_split(TRAIN["y"], groups=writers, **request).hash}
    assert found[0].facts == {"members": (2, 5)}


def test_salun_trains_on_the_rows_that_are_not_held_out():
    published = data.PUBLISHED["salun"](TRAIN["y"], count=9)
    found = case(seed=3, scenario="official", name="salun", count=9)
    held = data.published_splits.salun_validation(TRAIN["y"])
    np.testing.assert_array_equal(found.train["index"][found.split.forget], published.forget)
    np.testing.assert_array_equal(found.train["index"][found.split.remain], published.remain)
    np.testing.assert_array_equal(found.extra["validation"]["index"], held)
    assert len(found.train["y"]) + len(held) == 80
    assert found.own_network
    assert found.facts == {"published": "salun", "published_hash": published.hash}
    assert case(scenario="official", name="salun", count=9, part=0).extra == {}
    assert not case(scenario="official", name="salun", count=9, part=0).own_network


@pytest.mark.parametrize("name", ["muso", "sfron", "ssd"])
def test_published_splits_do_not_follow_the_seed_of_the_run(name):
    found = case(seed=3, scenario="official", name=name, fraction=0.2)
    assert found.split.hash == data.PUBLISHED[name](TRAIN["y"], fraction=0.2).hash == found.facts["published_hash"]
    own = case_for({"scenario": "official", "name": name, "fraction": 0.2, "seed": 4}, TRAIN, TEST, 4, 3)
    assert own.split.hash == data.PUBLISHED[name](TRAIN["y"], fraction=0.2, seed=4).hash != found.split.hash


def test_the_starting_kit_tests_on_a_half(tmp_path):
    np.save(tmp_path / "forget_idx.npy", np.array([7, 3]))
    found = case(scenario="official", name="kit", rows=str(tmp_path / "forget_idx.npy"))
    half, other = data.kit_halves(40)
    assert found.split.forget.tolist() == [3, 7]
    np.testing.assert_array_equal(found.test["index"], half)
    np.testing.assert_array_equal(found.extra["validation"]["index"], other)
    again = case_for({"scenario": "official", "name": "kit", "rows": (3, 7), "seed": 1}, TRAIN, TEST, 4, 0)
    assert again.split.hash == found.split.hash
    assert not np.array_equal(again.test["index"], half)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "scenario is None; expected one of random, class,"),
        ({"scenario": "rows"}, "scenario is 'rows'; expected one of .*, group, official"),
        (
            {"scenario": "random", "fraction": 0.1, "fractoin": 0.1},
            "a random request has 'fractoin'; it takes seed, fraction",
        ),
        ({"scenario": "class", "classes": (4,)}, r"classes \[4\] are absent"),
        (
            {"scenario": "subclass", "classes": (1,), "coarse_map": "cifar10"},
            "coarse_map is 'cifar10'; expected 'cifar100'",
        ),
        ({"scenario": "subclass", "classes": (1,)}, "coarse_map is None"),
        ({"scenario": "confused", "classes": (0, 1), "fraction": 2.0}, r"fraction is 2\.0"),
        ({"scenario": "poisoned", "fraction": 0.1}, "target is None"),
        (
            {"scenario": "poisoned", "fraction": 0.1, "target": 1, "trigger": {"width": 2}},
            "trigger has 'width'; it takes size",
        ),
        ({"scenario": "poisoned", "fraction": 0.1, "target": 1}, "size 4, margin 2; it must lie in images of 6 × 5"),
        ({"scenario": "memorization", "stratum": 0}, "scores is None"),
        (
            {"scenario": "memorization", "stratum": 0, "scores": "no.npy"},
            r"scores is 'no\.npy'; expected an \.npy file",
        ),
        ({"scenario": "memorization", "stratum": 0, "scores": (0.1, 0.2)}, r"scores has shape \(2,\); .* at least 80"),
        ({"scenario": "group", "members": (1,)}, "groups is None"),
        ({"scenario": "official"}, "official name is None; expected one of salun, muso, sfron, ssd, kit"),
        (
            {"scenario": "official", "name": "salun", "fraction": 0.1},
            "salun has 'fraction'; it takes count, forget_class",
        ),
        ({"scenario": "official", "name": "kit"}, "kit needs rows: the path of its index file"),
        ({"scenario": "official", "name": "kit", "rows": "gone.npy"}, r"rows is 'gone\.npy'"),
        ({"scenario": "official", "name": "kit", "rows": (1,), "part": 2}, "kit has 'part'; it takes rows"),
    ],
)
def test_requests_that_make_no_case(request_, message):
    with pytest.raises(RequestError, match=message):
        case_for(ConfigDict(request_), TRAIN, TEST, 4, 0)


@pytest.mark.parametrize(
    "request_",
    [
        {"name": "salun", "count": 9},
        {"name": "salun", "count": 9, "part": 0},
        {"name": "sfron", "fraction": 0.1, "step": 2},
        {"name": "kit", "rows": (5, 77)},
    ],
)
def test_published_rows_are_the_same_in_whatever_order_the_data_comes(request_):
    def numbers(order, test_order):
        train, test = take_rows(TRAIN, order), take_rows(TEST, test_order)
        found = case(train=train, test=test, scenario="official", **request_)
        parts = [
            found.train["index"][found.split.forget],
            found.train["index"][found.split.remain],
            found.test["index"],
        ]
        parts += [columns["index"] for columns in found.extra.values()]
        return [np.sort(part).tolist() for part in parts], found.facts

    shuffled = np.random.default_rng(5).permutation(80)
    assert numbers(shuffled, slice(None, None, -1)) == numbers(slice(None), slice(None))


def test_a_coarse_map_covers_classes_that_have_no_training_row():
    with pytest.raises(RequestError, match="coarse_map has 4 entries; the data has 5 fine classes"):
        case(num_classes=5, scenario="subclass", classes=(1,), coarse_map=(0, 0, 1, 1))


def test_a_trigger_needs_images():
    flat = TRAIN | {"x": np.zeros((80, 7))}
    with pytest.raises(RequestError, match=r"x has shape \(80, 7\); a trigger is put on images"):
        case(train=flat, scenario="poisoned", fraction=0.1, target=1)


def test_a_trigger_needs_test_rows_of_other_classes():
    with pytest.raises(RequestError, match="all test rows are of class 1, the target"):
        case(
            test=take_rows(TEST, np.isin(TEST["y"], 1)),
            scenario="poisoned",
            fraction=0.1,
            target=1,
            trigger={"size": 2},
        )


def test_a_case_is_a_plain_tuple_with_defaults():
    split = data.make_split(TRAIN["y"], "class", classes=[0])
    found = Case(split, TRAIN, TEST, 4)
    assert (found.own_network, dict(found.extra), dict(found.facts)) == (False, {}, {})
