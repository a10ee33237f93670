"""Cells of a comparison: done once, read back, and told by mean and deviation."""

import json

import pytest

from clujax.adaptation.cells import fill, summary


def test_finished_cells_are_read_and_only_missing_ones_are_measured(tmp_path):
    measured, prepared = [], []

    def measure(shared, method, seed, place, progress):
        measured.append((seed, method))
        if (seed, method) == (1, "B"):
            raise KeyboardInterrupt
        return {"value": f"{shared}{method}"}

    prepare = lambda seed, progress: prepared.append(seed) or f"task{seed}"
    methods = {"a": "A", "b": "B"}
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, (0, 1), methods, prepare, measure)
    assert json.loads((tmp_path / "stages" / "seed1" / "a" / "cell.json").read_text()) == {"value": "task1A"}
    assert (measured, prepared) == ([(0, "A"), (0, "B"), (1, "A"), (1, "B")], [0, 1])
    measured.clear(), prepared.clear()
    again = lambda shared, method, seed, place, progress: measured.append((seed, method)) or {"value": shared + method}
    cells = fill(tmp_path, (0, 1), methods, prepare, again)
    assert (measured, prepared) == ([(1, "B")], [1])
    assert cells == {"a": [{"value": "task0A"}, {"value": "task1A"}], "b": [{"value": "task0B"}, {"value": "task1B"}]}


def test_deviation_is_that_of_a_sample_and_none_of_one_seed():
    assert summary([{"x": 1.0}, {"x": 3.0}]) == {"values": {"x": 2.0}, "std": {"x": pytest.approx(2**0.5)}}
    assert summary([{"x": 1.0}]) == {"values": {"x": 1.0}, "std": {}}
