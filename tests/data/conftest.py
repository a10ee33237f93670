import gzip
import pathlib

import numpy as np
import pytest

from clujax.data import resolve


def idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def sides():
    """Training and test images and labels of a made set: 20 and 10 rows of 6×6 bytes, five classes."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (30, 6, 6), dtype=np.uint8)
    y = (np.arange(30) % 5).astype(np.uint8)
    return x[:20], y[:20], x[20:], y[20:]


@pytest.fixture
def write_idx(sides):
    """`write(folder, zipped=False, dot="-")`: the made set as four idx files."""

    def write(folder, zipped=False, dot="-"):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for side, x, y in (("train", *sides[:2]), ("t10k", *sides[2:])):
            for part, array in ((f"{side}-images{dot}idx3", x), (f"{side}-labels{dot}idx1", y)):
                content = idx_bytes(array)
                name = f"{part}-ubyte.gz" if zipped else f"{part}-ubyte"
                (folder / name).write_bytes(gzip.compress(content) if zipped else content)
        return folder

    return write


@pytest.fixture
def write_npz(sides):
    """`write(path)`: the made set as an npz."""

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), sides, strict=True)))
        return path

    return write


@pytest.fixture(autouse=True)
def nowhere(request, monkeypatch, tmp_path):
    """No data of this machine is found, save by tests marked `needs_data`."""
    if request.node.get_closest_marker("needs_data"):
        return
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("CLUJAX_DATA_DIR", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(pathlib.Path, "home", lambda: home)
    monkeypatch.setattr(resolve, "SYSTEM", tmp_path / "system")
