import math

import pytest
from sample import RIVALS, benchmark

from clujax.reports import compare


@pytest.fixture
def request_():
    return benchmark()["requests"][0]


def _method(request, key):
    return next(each for each in request["methods"] if each["key"] == key)


def test_collapse_is_read_from_the_key_before_the_warning():
    warned = {"warnings": ["Collapsed: remain accuracy is 13 points below retraining."]}
    assert compare.collapsed(warned)
    assert not compare.collapsed(warned | {"collapsed": False})
    assert compare.collapsed({"collapsed": True})
    assert not compare.collapsed({"warnings": ["a step is large; nothing Collapsed:"]})
    assert not compare.collapsed({"warnings": None})


def test_rivals_are_what_unlearns(request_):
    keys = [each["key"] for each in compare.rivals(request_)]
    assert keys == [row[0] for row in RIVALS[3:]]


def test_headline_is_everything_where_nothing_is_marked():
    metrics = [{"key": "FA", "headline": False}, {"key": "RA"}]
    assert compare.headline(metrics) == metrics
    metrics[1]["headline"] = True
    assert compare.headline(metrics) == metrics[1:]


def test_methods_go_by_average_distance_and_unknown_ones_last(request_):
    _method(request_, "salun")["values"]["AvgD"] = None
    _method(request_, "ntk")["values"]["AvgD"] = float("nan")
    ordered = compare.ranked(request_, compare.rivals(request_))
    distances = [compare.standing(request_, each) for each in ordered]
    assert distances == sorted(distances)
    assert [each["key"] for each in ordered[-2:]] == ["salun", "ntk"]


def test_beyond_follows_the_record_before_the_floor(request_):
    method = _method(request_, "sfron")
    assert compare.beyond(request_, method, "FA") is True  # recorded, though 1.3 < 2.5 × 0.7
    method["larger_than_noise"] = None
    assert compare.beyond(request_, method, "FA") is False
    request_["noise_floor"] = {"FA": 0.4}
    assert compare.beyond(request_, method, "FA") is True
    assert compare.beyond(request_, method, "MIA") is None
    assert compare.beyond(request_, method, "no such metric") is None


def test_within_noise_asks_for_the_average_and_matches_for_every_headline_metric(request_):
    method = _method(request_, "sfron")
    assert compare.within_noise(request_, method) is True
    assert compare.matches(request_, method) is False
    method["larger_than_noise"] = ["JS", "seconds"]  # neither is judged: not headline, and a cost
    assert compare.matches(request_, method) is True
    method["collapsed"] = True
    assert compare.within_noise(request_, method) is False
    assert compare.matches(request_, method) is False
    method |= {"collapsed": False, "larger_than_noise": None}
    request_["noise_floor"] = None
    assert compare.within_noise(request_, method) is None


def test_shift_is_signed_and_nan_where_unknown(request_):
    assert compare.shift(request_, _method(request_, "salun"), "MIA") == pytest.approx(44.9 - 70.7)
    assert math.isnan(compare.shift(request_, {"values": {}}, "MIA"))


@pytest.mark.parametrize(
    ("larger", "words"),
    [
        ([], "no headline metric differs"),
        (["FA"], "FA differs from retraining by more than retraining varies; RA, TA, MIA, AvgD, KL do not."),
        (["FA", "RA", "TA", "MIA", "AvgD"], "FA, RA, TA, MIA, AvgD differ from retraining"),
        (["FA", "RA", "TA", "MIA", "AvgD"], "; KL does not."),
        (["FA", "RA", "TA", "MIA", "AvgD", "KL"], "by more than retraining varies."),
    ],
)
def test_told_in_words(request_, larger, words):
    assert words in compare.told(request_, _method(request_, "sfron") | {"larger_than_noise": larger})


def test_nothing_is_told_without_a_record(request_):
    assert compare.told(request_, _method(request_, "sfron") | {"larger_than_noise": None}) == ""
    assert compare.told(request_, _method(request_, "retrain")) == ""
