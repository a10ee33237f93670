"""A run on columns that stay on disk is the run on columns in memory."""

import json
import pathlib

import numpy as np
import pytest

from clujax import configuration, data
from clujax.data import Rows
from clujax.errors import RequestError
from clujax.unlearning import experiment
from clujax.unlearning.metrics import check_unseen


def config(path):
    found = configuration.load(str(pathlib.Path(__file__).parent / "tiny.py"), (f"--data.path={path}",))
    with found.unlocked():
        found.data.name = "a set of mine"
        found.carry_out, found.compare, found.evidence.method = ("random",), ("retrain", "sfron"), "sfron"
        found.methods.sfron.steps = 4
        found.pretrain.epochs = found.methods.retrain.epochs = 1
        found.evidence.probe = {"rows": 16, "iterations": 2}
        del found.noise, found.relearn
    return found


def test_the_result_is_that_of_the_same_rows_in_memory(tmp_path):
    digits = data.load("digits")
    columns = {
        f"{name}_{side}": rows[name]
        for side in ("train", "test")
        for name, rows in zip("xy", [getattr(digits, side)] * 2)
    }
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    np.savez(tmp_path / "all.npz", **columns)
    results = [experiment.run(config(path), tmp_path / path.stem) for path in (folder, tmp_path / "all.npz")]
    on_disk, in_memory = (
        [(method["key"], {**method["per_seed"][0], "seconds": 0}) for method in result["requests"][0]["methods"]]
        for result in results
    )
    assert json.dumps(on_disk) == json.dumps(in_memory)


def test_unseen_rows_that_were_trained_on_are_found_on_disk_too(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 255, (40, 6, 6), dtype=np.uint8))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    part = lambda rows: {"x": Rows(x, np.asarray(rows)), "y": np.zeros(len(rows), int)}
    check_unseen({"forget": part(range(10)), "remain": part(range(10, 20)), "unseen": part(range(20, 40))})
    with pytest.raises(RequestError, match="5 of 25 rows of unseen are training rows too"):
        check_unseen({"forget": part(range(10)), "unseen": part([*range(5), *range(20, 40)])})
