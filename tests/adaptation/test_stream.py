"""Where the rows of a request lie changes nothing of their batches."""

import threading

import jax
import numpy as np
import pytest

from clujax.adaptation import request as requests
from clujax.data import take_rows
from clujax.training import make_mesh

KEY = jax.random.key(0)


@pytest.mark.parametrize("mesh", [None, make_mesh((("data", 8),))])
def test_rows_on_disk_and_more_than_memory_holds_are_fed_with_the_same_batches(tmp_path, monkeypatch, mesh):
    rows = {"x": np.arange(120.0).reshape(30, 4), "y": np.arange(30) % 3, "index": np.arange(30)}
    np.save(tmp_path / "x.npy", rows["x"])
    mapped = rows | {"x": np.load(tmp_path / "x.npy", mmap_mode="r")}
    request = requests.Request(None, {}, {}, rows, rows, 3, mesh=mesh)
    some = np.arange(3, 28)
    held = requests.stream(request, take_rows(rows, some), 16, KEY)
    monkeypatch.setattr(requests, "RESIDENT_BYTES", 100)
    before = threading.active_count()
    for read in (requests.stream(request, take_rows(side, some), 16, KEY) for side in (mapped, rows)):
        for step in (0, 1, 5):
            jax.tree.map(np.testing.assert_array_equal, read(step), held(step))
            assert set(read(step)) == {"x", "y"}
        assert threading.active_count() > before, "they are resident"
        read.close()
