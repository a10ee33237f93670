"""A small run from a config: what it writes, that it is complete when repeated, and slips that are told before any work."""

import pathlib
import runpy

import numpy as np
import pytest

from clujax.errors import ConfigError
from clujax.lora.experiment import run

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
