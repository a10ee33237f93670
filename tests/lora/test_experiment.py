"""A small run from a config: what it writes, that it is complete when repeated, and slips that are told before any work."""

import pathlib
import runpy

import numpy as np
import pytest

from clujax.errors import ConfigError
from clujax.lora.experiment import run
from clujax.lora.settings import variant

FILE = pathlib.Path(__file__).parents[2] / "configs" / "lora" / "demo.py"


def small():
    config = runpy.run_path(str(FILE))["get_config"]()
    config.seeds = (0,)
    config.data.pretrain_rows, config.data.train_rows, config.data.corrupt = 200, 60, (0.2,)
    config.model.widths = (16,)
    config.pretrain.epochs, config.adapt.epochs = 4.0, 4.0
    config.compare = ("lora", "flat_more", "merged_sam")
    config.measure.points, config.measure.draws, config.measure.taus = 3, 2, (0.2,)
    return config


def test_a_run_and_its_repetition(tmp_path):
    result = run(small(), tmp_path)
    record = result["lora"]
    assert [each["key"] for each in record["methods"]] == ["lora", "flat_more", "merged_sam"]
    assert record["tests"] == ["test", "noise 0.2"]
    for method in record["methods"]:
        assert method["steps"] == 5
        assert 0 <= method["values"]["test/accuracy"] <= 100
        assert np.isfinite(list(method["values"].values())).all()
    losses = [each["values"]["train/nll"] for each in record["methods"]]
    assert len(set(losses)) == 3
    with np.load(tmp_path / "evidence_lora.npz") as evidence:
        assert evidence["lora/line"].shape == (3,)
    assert run(small(), tmp_path)["lora"] == record


def test_a_row_says_what_differs_and_a_pattern_may_bound_its_rank():
    config = small()
    config.adapt.patterns = (("layers", 0), ("head/kernel", 2))
    row = variant("x", {"rank": 16, "init": "pissa", "scaling": "rank_stabilized", "magnitude": True}, config.adapt)
    assert [(rule.rank, rule.init.name, rule.magnitude) for rule in row.rules] == [
        (16, "pissa", True),
        (2, "pissa", True),
    ]
    assert row.rules[0].scaling(16.0, 16) == 4.0
    assert variant("y", {}, config.adapt).rules[0].rank == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compare": ("lorra",)}, "lorra"),
        ({"compare": ()}, "at least one"),
        ({"adapt.rank": 0}, "adapt.rank"),
        ({"methods.flat_more.sigma": -1.0}, "sigma"),
        ({"methods.flat_more.objective": "flatt"}, "flatt"),
        ({"data.train_rows": 10**6}, "train_rows"),
        ({"data.label_noise": 1.5}, "label_noise"),
        ({"task": "sounds"}, "sounds"),
    ],
)
def test_slips_are_told_before_the_directory_is_claimed(tmp_path, change, said):
    config = small()
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=said):
        run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
