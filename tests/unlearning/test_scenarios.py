"""Every scenario that changes rows or labels, from config to result: what each measures, and validation rows in its labels."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from clujax import configuration, reports
from clujax.unlearning import experiment

REQUESTS = {
    "confused": {"scenario": "confused", "classes": (1, 7), "fraction": 0.3},
    "poisoned": {
        "scenario": "poisoned",
        "target": 3,
        "fraction": 0.1,
        "trigger": {"size": 2, "margin": 0, "value": 16 / 255},  # digits run to 16
    },
    "subclass": {"scenario": "subclass", "classes": (4,), "coarse_map": (0, 0, 0, 1, 1, 1, 2, 2, 2, 2)},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    config = configuration.load(str(__file__).replace("test_scenarios.py", "tiny.py"))
    with config.unlocked():
        del config.noise, config.relearn
        config.pretrain.epochs = 12
        config.methods.retrain.epochs = 12
        config.methods = ConfigDict({name: config.methods[name].to_dict() for name in ("retrain", "finetune")})
        config.compare, config.evidence.method = ("retrain", "finetune"), "finetune"
        config.requests, config.carry_out = ConfigDict(REQUESTS), tuple(REQUESTS)
    workdir = tmp_path_factory.mktemp("scenarios") / "run"
    result = experiment.run(config, workdir)
    reports.build(workdir)
    rows = {
        request["key"]: {method["key"]: method["values"] for method in request["methods"]} | {"facts": request["facts"]}
        for request in json.loads(json.dumps(result))["requests"]
    }
    return workdir, rows


def test_a_trigger_works_on_the_network_that_learnt_it_and_not_on_the_retrained_one(found):
    poisoned = found[1]["poisoned"]
    assert poisoned["original"]["Trigger"] > poisoned["retrain"]["Trigger"] + 30
    assert poisoned["facts"] == {"target": 3}


def test_confusion_is_measured_on_the_two_classes(found):
    confused = found[1]["confused"]
    assert all(0 <= confused[name]["Confused"] <= 100 for name in ("original", "retrain", "finetune"))
    assert confused["facts"] == {"confused": [1, 7]}
    assert "Trigger" not in confused["original"]


def test_labels_of_a_subclass_request_are_coarse_everywhere(found):
    workdir, rows = found
    assert rows["subclass"]["original"]["TA"] > 60  # of three classes, where ten were trained on before
    with np.load(workdir / "stages" / "seed0" / "subclass" / "retrain" / "logits.npz") as cell:
        assert {cell[name].shape[-1] for name in cell.files if name.endswith("logits")} == {3}
    # The candidate was chosen on validation rows, whose labels must be coarse too.
    choice = json.loads((workdir / "stages" / "subclass_finetune_choice.json").read_text())
    assert all(isinstance(gap, float) for gap in choice["gaps"].values())
