"""From cells to the record of a stream: means over seeds, gaps, and methods that did not finish."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from clujax.continual.request import Request
from clujax.continual.results import Cell, stream_record, write_evidence

REQUESTS = [Request(range(4), name="L1"), Request(range(4, 6), range(2), name="L2+U50%")]
KEPT = [[[0], [0, 1]]] * 2
SETTINGS = ConfigDict({"label": "two requests", "task_aware": False})


def cell(test, forget, kl, seconds=1.0, done=2, warnings=()):
    first = {"TA": 90.0, "class/0": 90.0, "AvgD": 0.0, "seconds": 0.0}
    second = {"TA": test, "FA": forget, "KL_forget": kl, "class/0": test - 10, "AvgD": 1.0, "seconds": seconds}
    return Cell((first, second)[:done], {"steps": 3}, warnings)


CELLS = {
    "oracle": [cell(80.0, 50.0, 0.0, 9.0), cell(82.0, 52.0, 0.0, 11.0)],
    "oracle_again": [cell(81.0, 51.0, 0.1), cell(81.0, 51.0, 0.3)],
    "ug_clu": [cell(78.0, 54.0, 0.5), cell(79.0, 47.0, 0.7)],
    "broken": [cell(0, 0, 0, done=1, warnings=("Collapsed: it diverged.",)), cell(70.0, 40.0, 2.0)],
    "ruined": [cell(30.0, 0.0, 9.0), cell(32.0, 0.0, 9.0)],
    "gone": [cell(0, 0, 0, done=1), cell(0, 0, 0, done=1)],
}


@pytest.fixture
def record():
    options = {"labels": {"broken": "Broken"}, "focus": "ug_clu", "sizes": {"num_learn": 6}}
    return stream_record("two", SETTINGS, REQUESTS, KEPT, CELLS, **options)


def method(record, key):
    return next(each for each in record["methods"] if each["key"] == key)


def test_numbers_are_means_over_requests_after_the_first_then_over_seeds(record):
    ours = method(record, "ug_clu")
    assert ours["values"]["TA"] == pytest.approx(78.5)
    assert ours["std"]["TA"] == pytest.approx(np.std([78, 79], ddof=1))
    assert ours["values"]["Forgetting"] == pytest.approx(90 - 68.5)
    assert ours["run_seconds"] == 1.0


def test_gaps_are_sizes_of_distances_seed_by_seed(record):
    ours = method(record, "ug_clu")["gap"]
    assert ours["FA"] == pytest.approx((4 + 5) / 2)
    assert ours["KL_forget"] == pytest.approx(0.6)
    assert "seconds" not in ours
    assert method(record, "oracle")["gap"] is None
    assert record["noise_floor"]["TA"] == pytest.approx(1.0)
    assert record["noise_floor"]["KL_forget"] == pytest.approx(0.2)


def test_a_seed_that_failed_has_no_share_in_the_means(record):
    broken = method(record, "broken")
    assert broken["label"] == "Broken"
    assert broken["values"]["TA"] == 70.0
    assert broken["std"] is None
    assert broken["collapsed"]
    assert method(record, "gone")["values"] == {}
    assert method(record, "gone")["run_seconds"] is None


def test_a_network_that_lost_a_third_of_the_test_accuracy_has_collapsed(record):
    assert method(record, "ruined")["warnings"] == ["Collapsed: test accuracy is 50.0 points below the oracle's."]
    assert not method(record, "ug_clu")["collapsed"]
    assert not method(record, "oracle_again")["collapsed"]


def test_curves_are_means_over_seeds_and_have_no_number_where_there_is_none(record, tmp_path):
    write_evidence(tmp_path / "e.npz", CELLS, record)
    with np.load(tmp_path / "e.npz") as arrays:
        models = arrays["stream_models"].tolist()
        np.testing.assert_array_equal(arrays["stream_FA"][models.index("ug_clu")], [np.nan, 50.5])
        assert arrays["stream_TA_std"][models.index("ug_clu"), 1] == pytest.approx(np.std([78, 79], ddof=1))
        np.testing.assert_array_equal(arrays["stream_TA"][models.index("gone")], [90.0, np.nan])
        assert arrays["stream_requests"].tolist() == ["L1", "L2+U50%"]
