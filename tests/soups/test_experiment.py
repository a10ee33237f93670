"""A small run from a config: what it writes, that recipes rebuild its soups, coming back, and slips told before any work."""

import functools
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from clujax import models, reports, soups
from clujax.errors import ConfigError
from clujax.soups import experiment, finetuning, resume
from clujax.soups.experiment import judge_all, run, subject_of
from clujax.soups.settings import KEYS, method

FILE = pathlib.Path(__file__).parents[2] / "configs" / "soups" / "demo.py"
NAMES = ("best", "uniform", "learned", "mehl_plus")


def small():
    config = runpy.run_path(str(FILE))["get_config"]()
    config.seeds = (0,)
    config.data.pretrain_rows, config.data.tune_rows, config.data.held_rows = 200, 200, 100
    config.model.widths = (16,)
    config.pretrain.epochs, config.pool.epochs, config.learn.epochs = 4.0, 2.0, 2
    config.pool.count, config.pool.rows = 4, 100
    config.methods.mehl_plus.block_size = 2
    config.compare = NAMES
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    place = tmp_path_factory.mktemp("soups") / "run"
    return place, run(small(), place)


def test_every_method_is_measured_and_weights_sum_to_one(done):
    place, result = done
    record = result["soups"]
    assert [each["key"] for each in record["methods"]] == list(NAMES)
    assert len(record["members"]) == record["count"] == 4
    with np.load(place / "evidence_soups.npz") as evidence:
        leaves = evidence["leaves"]
        for name in NAMES:
            weights = evidence[f"weights/{name}"]
            assert weights.shape == (4, len(leaves))
            np.testing.assert_allclose(weights.sum(0), 1, atol=1e-5)
    best, uniform, learned, mehl = record["methods"]
    top = max(record["members"], key=lambda each: each["held/accuracy"])
    assert best["values"]["test/nll"] == pytest.approx(top["test/nll"], rel=1e-5)
    assert (best["used"], uniform["used"]) == (1, 4)
    assert uniform["values"]["lowest"] == uniform["values"]["highest"] == 0.25
    # Steps: 2 epochs of 2 batches, for every one of the 2 blocks.
    assert (len(learned["losses"]), len(mehl["losses"])) == (4, 8)


def test_models_differ_and_learn(done):
    _, result = done
    rates = {each["learning_rate"] for each in result["soups"]["members"]}
    losses = {each["test/nll"] for each in result["soups"]["members"]}
    assert len(rates) == len(losses) == 4
    assert max(losses) < np.log(10)


def test_rows_for_each_purpose_are_apart_and_drawn_by_seed():
    train = {"x": np.arange(600), "y": np.arange(600)}
    first, again = (np.concatenate([part["x"] for part in experiment.split(small(), train, seed)]) for seed in (0, 1))
    assert len(set(first)) == len(first) == 500
    assert not np.array_equal(first, again)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "label_smoothing", "noise"])
def test_each_part_of_a_recipe_reaches_its_model_and_no_other(name):
    net = models.mlp(3, widths=(4,))
    key = jax.random.key(0)
    columns = {"x": jax.random.uniform(key, (40, 5)), "y": np.arange(40) % 3}
    start, _ = net.init(key, columns["x"][:1])
    settings = ConfigDict({"rows": 20, "epochs": 2.0, "batch_size": 10})
    recipe = {"learning_rate": 1e-2, "weight_decay": 1e-2, "label_smoothing": 0.1, "noise": 0.1}
    tuned = lambda second: finetuning.fine_tune(net, start, columns, settings, [recipe, second], key)
    plain, changed = tuned(recipe), tuned(recipe | {name: 3 * recipe[name]})
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(changed)):
        np.testing.assert_array_equal(one[0], other[0])
        assert np.abs(one[1] - other[1]).max() > 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_rebuilds_the_soup_that_was_measured(done, name):
    place, result = done
    config = small()
    pool = soups.OrbaxPool([place / "pools" / "seed0" / f"model{k:02d}" for k in range(4)])
    recipe = soups.load_recipe(place / "stages" / "seed0" / name / "recipe.json")
    params = soups.from_recipe(pool, recipe)
    subject = subject_of(config)
    found = judge_all(subject.network, {"test": subject.test}, params)
    told = next(each for each in result["soups"]["methods"] if each["key"] == name)["values"]
    assert found["test/nll"] == pytest.approx(told["test/nll"], rel=1e-4)


def test_a_stopped_run_keeps_its_pool_and_its_cells(done, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "recipe_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(small(), tmp_path)
    members = json.loads((tmp_path / "pools" / "seed0" / "members.json").read_text())
    monkeypatch.setattr(experiment.finetuning, "fine_tune", stopped)
    again = run(small(), tmp_path)["soups"]
    assert again["members"] == members["members"]
    first = done[1]["soups"]
    for one, other in zip(first["methods"], again["methods"], strict=True):
        assert one["values"] == pytest.approx(other["values"], rel=1e-6)
    monkeypatch.setattr(experiment, "prepared", stopped)
    assert run(small(), tmp_path)["soups"] == again


def test_a_pool_from_disk_is_not_trained(done, tmp_path, monkeypatch):
    place, result = done
    config = small()
    config.pool.directories = tuple(str(place / "pools" / "seed0" / f"model{k:02d}") for k in range(4))
    monkeypatch.setattr(experiment, "pretrained", None)
    found = run(config, tmp_path)["soups"]
    for one, other in zip(result["soups"]["methods"], found["methods"], strict=True):
        assert one["values"] == pytest.approx(other["values"], rel=1e-4)


def test_a_pool_of_another_network_is_refused_before_the_directory_is_claimed(done, tmp_path):
    config = small()
    config.pool.directories = tuple(str(done[0] / "pools" / "seed0" / f"model{k:02d}") for k in range(4))
    config.model.widths = (8,)
    with pytest.raises(ConfigError, match="another network"):
        run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_within_a_soup_at_its_last_block(done, tmp_path, monkeypatch):
    blocks, save = [], resume.save

    def saved(checkpoints, state, told):
        blocks.append(state.block)
        save(checkpoints, state, told)
        if len(blocks) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", saved)
    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path)
    found = run(small(), tmp_path)["soups"]["methods"][-1]
    assert blocks == [1, 2]
    expected = done[1]["soups"]["methods"][-1]
    assert found["values"] == pytest.approx(expected["values"], rel=1e-6)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6)


def test_the_report_has_its_table_and_its_figures(done):
    place, _ = done
    page = reports.build(place).read_text()
    assert "mean of the models" in page
    for name in ("losses", "weights", "descents"):
        assert (place / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compare": ("mehll",)}, "mehll"),
        ({"compare": ()}, "at least one"),
        ({"data.held_rows": 10**6}, "held_rows"),
        ({"data.held_rows": 0}, "above 0"),
        ({"learn.batch_size": 200}, "learn.batch_size"),
        ({"learn.batch_size": 0}, "learn.batch_size"),
        ({"pool.batch_size": 0}, "pool.batch_size"),
        ({"pretrain.epochs": 0.0}, "pretrain.epochs"),
        ({"pool.count": 1}, "pool.count"),
        ({"pool.rows": 300}, "pool.rows"),
        ({"pool.learning_rate": (1e-2, 1e-3)}, "pool.learning_rate"),
        ({"pool.directories": ("here",)}, "pool.directories"),
        ({"methods.mehl_plus.block_size": 0}, "block_size"),
        ({"methods.mehl_plus.groups": "leafs"}, "leafs"),
    ],
)
def test_slips_are_told_before_the_directory_is_claimed(tmp_path, change, said):
    config = small()
    config.methods.mehl_plus.groups = "leaf"
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=said):
        run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_row_says_what_differs_from_the_defaults():
    row = method("x", {"kind": "learned", "label": "L", "groups": "whole"}, {"epochs": 3, "batch_size": 9})
    assert (row.label, row.kind) == ("L", "learned")
    with pytest.raises(ConfigError, match="sweeps"):
        method("x", {"kind": "learned", "sweeps": 2}, {})
    with pytest.raises(ConfigError, match="pool_mean"):
        method("x", {"reference": "pool_mean", "extrapolate": False}, {})
    with pytest.raises(ConfigError, match="meh"):
        method("x", {"kind": "meh"}, {})
    assert functools.reduce(lambda a, b: a & b.keys(), (KEYS["mehl"], KEYS["learned"])) == {
        "groups",
        "learning_rate",
        "epochs",
    }
