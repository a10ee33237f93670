"""Thresholds by class against the published double loop."""

from fractions import Fraction

import numpy as np
import pytest

from clujax.attacks import (
    called_members,
    confidence,
    correctness_attack,
    fit_thresholds,
    threshold_attack,
)
from clujax.errors import RequestError


def published_cut(members, strangers):
    """In fractions: rounding must not break ties."""
    best, cut = 0, 0
    for value in np.concatenate([members, strangers]):
        caught, rejected = int(np.sum(members >= value)), int(np.sum(strangers < value))
        merit = Fraction(caught, len(members)) + Fraction(rejected, len(strangers))
        if merit > best:
            best, cut = merit, value
    return cut


def random_rows(seed, rows, classes, decimals=1):
    """Rounded: many ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.random(rows), decimals), rng.integers(0, classes, rows)


@pytest.mark.parametrize("classes", [1, 3, 12])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_are_the_published_loops(seed, classes):
    members, strangers = random_rows(seed, 150, classes), random_rows(seed + 100, 90, classes)
    fitted = fit_thresholds(*members, *strangers)
    assert fitted.pooled == published_cut(members[0], strangers[0])
    expected = [published_cut(*(s[s_labels == c] for s, s_labels in (members, strangers))) for c in range(classes)]
    assert fitted.classes.tolist() == list(range(classes))
    assert fitted.cuts.tolist() == expected


def test_the_first_of_equal_cuts_is_taken_members_before_strangers():
    members, strangers = np.array([0.7, 0.9, 0.8]), np.array([0.5, 0.1])
    fitted = fit_thresholds(members, np.zeros(3, int), strangers, np.zeros(2, int))
    assert fitted.cuts.tolist() == [0.7]
    turned = fit_thresholds(np.array([0.1, 0.2]), np.zeros(2, int), np.array([0.3, 0.4]), np.zeros(2, int))
    # Reversed sets: every cut has merit at most ½, and the first that reaches it is the first row.
    assert turned.cuts.tolist() == [0.1]


def test_rates_are_counts_by_class():
    members = np.array([0.9, 0.8, 0.3]), np.array([0, 0, 1])
    strangers = np.array([0.1, 0.2]), np.array([0, 1])
    inside, outside = (
        (np.array([0.8, 0.7, 0.3, 0.31]), np.array([0, 0, 1, 1])),
        (np.array([0.9, 0.2]), np.array([0, 1])),
    )
    # Cuts 0.8 and 0.3: three of four inside, one of two outside.
    assert threshold_attack(members, strangers, inside, outside) == (75.0, 50.0)


def test_a_class_without_both_kinds_is_judged_by_the_pooled_cut():
    fitted = fit_thresholds(np.array([0.9, 0.8]), np.array([0, 2]), np.array([0.2, 0.4]), np.array([0, 1]))
    assert fitted.classes.tolist() == [0]
    assert fitted.pooled == 0.8
    assert called_members(fitted, np.array([0.85, 0.79, 0.85]), np.array([1, 2, 7])) == pytest.approx(200 / 3)
    apart = fit_thresholds(np.array([0.9]), np.array([0]), np.array([0.2]), np.array([1]))
    assert called_members(apart, np.array([0.95, 0.5]), np.array([0, 1])) == 50


def test_attacks_on_a_network_that_overfits_tell_more_than_chance(network):
    scores = {name: (np.asarray(confidence(*rows)), rows[1]) for name, rows in network.items()}
    inside, outside = threshold_attack(*(scores[n] for n in ("remain", "unseen", "remain", "unseen")))
    assert inside + outside > 105
    right, wrong = correctness_attack(network["remain"], network["unseen"])
    accuracy = lambda rows: 100 * np.mean(rows[0].argmax(-1) == rows[1])
    assert right == pytest.approx(accuracy(network["remain"]), abs=1e-3)
    assert wrong == pytest.approx(100 - accuracy(network["unseen"]), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_thresholds(np.zeros(0), np.zeros(0, int), np.zeros(1), np.zeros(1, int)), "members has"),
        (lambda: fit_thresholds(np.zeros(1), np.zeros(1, int), np.zeros(0), np.zeros(0, int)), "strangers has"),
        (lambda: fit_thresholds(np.zeros(2), np.zeros(1, int), np.zeros(1), np.zeros(1, int)), "member_labels has"),
        (lambda: fit_thresholds(np.zeros(2), np.zeros(2, int), np.zeros(2), np.zeros(1, int)), "stranger_labels has"),
        (
            lambda: correctness_attack((np.zeros((0, 2)), np.zeros(0, int)), (np.zeros((1, 2)), np.zeros(1, int))),
            "inside",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(RequestError, match=message):
        call()
