import copy
import json

import numpy as np
import pytest
from sample import evidence, result, write

from clujax import reports
from clujax.errors import DataNotFoundError
from clujax.reports.results import distance


def test_reads_back_what_was_written(tmp_path):
    run = reports.read(write(tmp_path / "run"))
    assert run.result["requests"][1]["name"] == "class"
    np.testing.assert_array_equal(run.evidence[1]["class_accuracy"], evidence(1)["class_accuracy"])


def test_unfinished_run_is_told_how_to_finish(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"has not finished.*clujax run"):
        reports.read(tmp_path)
    with pytest.raises(DataNotFoundError, match="does not exist"):
        reports.read(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ['{"title": "cut o', '{"title": "x"}'])
def test_damaged_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataNotFoundError, match=r"result\.json"):
        reports.read(tmp_path)


def test_damaged_evidence_is_named(tmp_path):
    run = write(tmp_path)
    (run / "evidence_1.npz").write_bytes((run / "evidence_1.npz").read_bytes()[:300])
    with pytest.raises(DataNotFoundError, match=r"evidence_1\.npz"):
        reports.read(run)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda r: r.pop("reference"), "reference"),
        (lambda r: r.update(reference="oracle"), "oracle"),
        (lambda r: r["metrics"][0].pop("ideal"), "ideal"),
        (lambda r: r["metrics"][2].update(direction="up"), "direction 'up'"),
        (lambda r: r["methods"][3].pop("values"), "'finetune'"),
    ],
)
def test_check_names_the_place(change, word):
    broken = copy.deepcopy(result())
    change(broken["requests"][0])
    with pytest.raises(DataNotFoundError, match=word):
        reports.check(broken)


def test_distance_has_a_sign_only_where_all_seeds_agree():
    request = result()["requests"][0]
    finetune, metric = request["methods"][3], request["metrics"][0]
    finetune["values"]["FA"], finetune["gap"]["FA"] = 86.7, 0.5
    assert distance(request, finetune, metric) == (pytest.approx(-0.5), True)
    finetune["gap"]["FA"] = 2.5  # some seeds above, some below
    assert distance(request, finetune, metric) == (2.5, False)


@pytest.mark.parametrize(("ideal", "value", "expected"), [(0.0, 0.3, 0.3), (100.0, 35.0, 65.0), (1, 0.9, 0.1)])
def test_distance_to_an_ideal_that_is_a_number(ideal, value, expected):
    request = result()["requests"][0]
    metric = {"key": "Agree", "unit": "", "direction": "higher", "ideal": ideal}
    assert distance(request, {"key": "x", "values": {"Agree": value}}, metric) == (pytest.approx(expected), False)


def test_methods_come_in_the_order_of_the_story(tmp_path):
    whole = result()
    for request in whole["requests"]:
        request["methods"].sort(key=lambda method: method["key"][::-1])
    (tmp_path / "result.json").write_text(json.dumps(whole))
    keys = [method["key"] for method in reports.read(tmp_path).result["requests"][0]["methods"]]
    assert keys[:3] == ["original", "retrain", "retrain_again"]
    assert keys[-1] == "sfron"
