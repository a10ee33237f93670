"""The evaluation table: what is in it, its identities, and the caches that it refuses."""

import jax
import numpy as np
import pytest

from clujax.errors import RequestError
from clujax.unlearning import METRICS, evaluate, gaps, row_outcomes, summary
from clujax.unlearning.metrics import check_unseen


def cache(seed, sharpness=3.0, whole=False):
    rng = np.random.default_rng(seed)
    sizes = {"remain": 200, "unseen": 120, "forget": 40} | ({"unseen_forget": 30} if whole else {})
    found = {}
    for i, (side, count) in enumerate(sizes.items()):
        labels = np.random.default_rng(100 + i).integers(0, 5, count).astype(np.int32)
        signal = sharpness * np.eye(5)[labels] * (2.0 if side == "remain" else 1.0)
        found[side] = ((signal + rng.normal(size=(count, 5))).astype(np.float32), labels)
    return found


@pytest.fixture(scope="module")
def table():
    networks = cache(0), cache(1, 2.0)
    untrained = {"forget": (np.zeros((40, 5), np.float32), networks[0]["forget"][1])}
    values = evaluate(networks[1], networks[0], untrained=untrained)
    return networks, values, evaluate(networks[0], untrained=untrained)


def test_every_value_is_described_and_finite(table):
    _, values, _ = table
    described = {metric.key for metric in METRICS}
    assert set(values) <= described
    assert all(np.isfinite(value) for value in values.values())
    assert described - set(values) == {
        *(
            "FA_test",
            "Confused",
            "Trigger",
            "Moved",
            "Relearn",
            "ToW",
            "ToW_MIA",
            "AvgD",
            "AvgGap",
            "PrivLeak",
            "seconds",
        )
    }


def test_metrics_are_told_with_direction_ideal_and_one_sentence():
    for metric in METRICS:
        assert metric.direction in ("closer to retrain", "lower", "higher")
        assert (metric.ideal == "retrain") == (metric.direction == "closer to retrain")
        assert metric.explain.endswith(".")
        assert metric.group in ("utility", "privacy", "output", "summary", "cost")
    assert len({metric.key for metric in METRICS}) == len(METRICS)


def test_retraining_is_no_distance_from_itself(table):
    networks, _, retrained = table
    own = evaluate(networks[0], networks[0])
    assert {key: own[key] for key in ("KL", "JS", "Act")} == pytest.approx({"KL": 0, "JS": 0, "Act": 0}, abs=1e-6)
    assert own["Agree"] == 100
    assert summary(retrained, retrained) == {"AvgD": 0, "AvgGap": 0, "ToW": 1, "ToW_MIA": 1, "PrivLeak": 0}
    assert set(gaps(retrained, retrained).values()) == {0}


def test_averages_are_those_of_the_gaps(table):
    _, values, retrained = table
    gap = gaps(values, retrained)
    assert gap["AvgD"] == pytest.approx(
        np.mean([abs(values[key] - retrained[key]) for key in ("FA", "RA", "TA", "MIA")])
    )
    assert summary(values, retrained)["AvgD"] == pytest.approx(gap["AvgD"])
    assert "KL" not in gap
    assert "ToW" not in gap


def test_row_outcomes_are_the_metrics_before_their_mean(table):
    networks, values, _ = table
    outcomes = row_outcomes(networks[1])
    for key in ("FA", "RA", "TA", "MIA"):
        assert 100 * outcomes[key].mean() == pytest.approx(values[key])
    assert outcomes["MIA"].shape == (40,)


def test_losses_are_compared_among_rows_of_the_same_classes():
    """A class forgotten whole has strangers of its own: shifting the kept classes' unseen rows changes nothing."""
    one = cache(0, whole=True)
    other = dict(one) | {"unseen": (one["unseen"][0] * 0.1, one["unseen"][1])}
    assert evaluate(one)["AUC"] == evaluate(other)["AUC"]
    assert evaluate(one)["MIA"] != evaluate(other)["MIA"]


def test_a_request_of_one_row_has_a_table(table):
    """All but the attack that must fit some forgotten rows and hold out others."""
    networks, values, _ = table
    one = [dict(each) | {"forget": tuple(part[:1] for part in each["forget"])} for each in networks]
    found = evaluate(one[1], one[0])
    assert set(values) - set(found) == {"LossCV", "ZRF"}
    assert found["FA"] in (0, 100)


def test_scenario_facts_add_their_numbers(table):
    networks, _, _ = table
    logits = np.eye(5, dtype=np.float32)[[1, 1, 1, 0]]
    extra = dict(networks[0]) | {"triggered": (logits, np.array([0, 2, 3, 4]))}
    values = evaluate(extra, facts={"target": 1, "confused": (0, 1)})
    assert values["Trigger"] == 75
    ours = np.isin(networks[0]["unseen"][1], (0, 1))
    guesses = networks[0]["unseen"][0].argmax(-1)
    assert values["Confused"] == pytest.approx(100 * np.mean((guesses == 1 - networks[0]["unseen"][1])[ours]))


def test_numbers_do_not_depend_on_the_order_of_rows(table):
    networks, _, _ = table
    order = np.random.default_rng(3).permutation(40)
    shuffled = dict(networks[1]) | {"forget": tuple(part[order] for part in networks[1]["forget"])}
    keep = ("FA", "MIA", "SVC", "SVC_correct", "SVC_entropy", "SVC_m", "Threshold", "AUC")
    one, other = evaluate(networks[1]), evaluate(shuffled)
    assert {key: one[key] for key in keep} == pytest.approx({key: other[key] for key in keep}, abs=1e-4)


def test_float32_logits_are_evaluated_in_double_precision_too(table, x64):
    networks, values, _ = table
    again = evaluate(networks[1], networks[0])
    # Splits of the loss attack are drawn anew by the other width; everything else is the same number.
    assert {key: again[key] for key in again if key != "LossCV"} == pytest.approx(
        {key: values[key] for key in again if key != "LossCV"}, rel=1e-3, abs=2.6
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "unseen"}, "unseen has no rows"),
        (lambda c: c | {"forget": (np.zeros((0, 5)), np.zeros(0, int))}, "forget has no rows"),
        (lambda c: c | {"remain": (c["remain"][0] * np.nan, c["remain"][1])}, "logits of remain have NaN"),
    ],
)
def test_caches_that_cannot_be_evaluated_are_refused(table, change, words):
    with pytest.raises(RequestError, match=words):
        evaluate(change(dict(table[0][0])))


@pytest.mark.parametrize("side", ["forget", "remain", "unseen"])
def test_a_reference_of_another_split_is_refused(table, side):
    reference = dict(table[0][0])
    reference[side] = (reference[side][0], np.roll(reference[side][1], 1))
    with pytest.raises(RequestError, match=f"reference has {side} rows"):
        evaluate(table[0][1], reference)


def test_unseen_rows_that_were_trained_on_are_refused():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    rows = {
        side: {"x": x[part], "y": np.zeros(20)} for side, part in (("forget", slice(20)), ("remain", slice(20, 40)))
    }
    check_unseen(rows | {"unseen": {"x": x[40:], "y": np.zeros(20)}})
    with pytest.raises(RequestError, match="20 of 20 rows of unseen are training rows"):
        check_unseen(rows | {"unseen": {"x": x[20:40], "y": np.zeros(20)}})
    with pytest.warns(UserWarning, match="2 of 20 rows of unseen repeat a training row"):
        check_unseen(rows | {"unseen": {"x": np.concatenate([x[42:], x[:2]]), "y": np.zeros(20)}})


def test_evaluation_compiles_for_shapes_and_not_for_networks(table):
    """Networks of the same split share every compiled attack."""
    networks, _, _ = table
    evaluate(networks[0], networks[1])
    count = compilations(lambda: evaluate(networks[1], networks[0]))
    assert count == 0


def compilations(work):
    """Programs that XLA compiles while `work` runs."""
    found = []
    listener = lambda name, duration, **_: found.append(name) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        work()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return len(found)
