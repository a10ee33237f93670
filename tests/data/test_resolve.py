import json
import logging
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from clujax.data import PreparedRows, feed, load, prepare, resolve
from clujax.data.files import DamagedDataError, sha256
from clujax.data.prepared import find_prepared
from clujax.errors import DataNotFoundError


@pytest.fixture
def known(monkeypatch, sides):
    """A set `made` that a package carries, one constant image a place, so that a load tells where it came from."""

    def package():
        return np.full((30, 6, 6), 7, np.uint8), np.arange(30) % 5, tuple("abcde"), ("pip/made", "1.2", "00")

    monkeypatch.setitem(resolve.KNOWN, "made", resolve.Known(tuple("abcde"), package=package, apt="dataset-made"))


def test_places_are_tried_in_the_order_of_the_docstring(tmp_path, monkeypatch, known, write_idx, write_npz, sides):
    shaped = {"train": (sides[0][..., None], sides[1]), "test": (sides[2][..., None], sides[3])}
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path / "mine"))
    given = write_npz(tmp_path / "given.npz")
    kinds = []

    def add(**options):
        found = load("made", **options)
        kinds.append(found.source.kind)
        return found

    write_idx(tmp_path / "system" / "made", zipped=True)
    monkeypatch.setitem(resolve.KNOWN, "made", resolve.KNOWN["made"]._replace(package=None))
    assert add().source.path == "made"
    monkeypatch.undo()
    monkeypatch.setattr(resolve.pathlib.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(resolve, "SYSTEM", tmp_path / "system")
    package = lambda: (np.zeros((30, 6, 6), np.uint8), np.arange(30) % 5, tuple("abcde"), ("pip/made", "1.2", "00"))
    monkeypatch.setitem(resolve.KNOWN, "made", resolve.Known(tuple("abcde"), package=package))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path / "mine"))
    add()
    write_npz(tmp_path / "mine" / "made.npz")
    add()
    where = prepare("made", tmp_path / "tfds", shaped, tuple("abcde"))
    assert where.is_relative_to(tmp_path / "tfds")
    add()
    add(path=given)
    assert kinds == ["idx", "package", "npz", "tfds", "npz"]
    assert load("made", path=given).source.path == "given.npz"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_folder(tmp_path, write_idx, sides, zipped, dot):
    found = load("made", path=write_idx(tmp_path / "set", zipped, dot))
    np.testing.assert_array_equal(found.train["x"], sides[0][..., None])
    np.testing.assert_array_equal(found.test["y"], sides[3])
    assert found.train["x"].dtype == np.uint8
    assert found.train["y"].dtype == np.int32
    assert found.train["index"].dtype == np.int64
    assert found.test["index"].tolist() == list(range(10))
    assert found.source.kind == "idx"
    assert found.source.n == 30
    assert "/" not in found.source.path
    assert found.classes == tuple("01234")
    again = load("made", path=write_idx(tmp_path / "other", not zipped, dot))
    assert again.source.sha256 == found.source.sha256, "the same content has another sha256 when it is zipped"


def test_npm_folder(tmp_path, write_idx, monkeypatch):
    write_idx(tmp_path / "made" / "node_modules" / "made-data" / "data")
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
    found = load("made").source
    assert (found.kind, found.path) == ("idx", "made-data")
    for path in (tmp_path / "made", tmp_path / "made" / "node_modules" / "made-data"):
        assert load("made", path=path).source == found


def test_npz_at_each_place_of_the_data_dir(tmp_path, write_npz, monkeypatch, sides):
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
    for path in (tmp_path / "one.npz", tmp_path / "two" / "two.npz"):
        write_npz(path)
        found = load(path.stem)
        np.testing.assert_array_equal(found.train["x"], sides[0][..., None])
        assert found.source == ("npz", path.name, "", sha256(path.read_bytes()), 30)


def test_tfds_set_keeps_raw_row_numbers_and_reads_the_same_again(tmp_path, sides):
    x_train, y_train, x_test, y_test = sides
    shaped = {"train": (x_train[..., None], y_train), "test": (x_test[..., None], y_test)}
    folder = prepare("made_set", tmp_path, shaped, tuple("abcde"))
    first, again = load("made_set", data_dir=tmp_path), load("made_set", path=folder)
    for found in (first, again):
        for side, x, y in ((found.train, x_train, y_train), (found.test, x_test, y_test)):
            np.testing.assert_array_equal(side["x"], x[side["index"], :, :, None])
            np.testing.assert_array_equal(side["y"], y[side["index"]])
            assert sorted(side["index"]) == list(range(len(y)))
    np.testing.assert_array_equal(first.train["index"], again.train["index"])
    assert first.classes == tuple("abcde")
    assert first.source == again.source
    assert (first.source.kind, first.source.path, first.source.version) == ("tfds", "made_set", "1.0.0")


def image_folder(folder, counts, size=(5, 4), mode="RGB"):
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, size, (label, i, 9)).save(folder / name / f"{i:02}.png")
    return folder


def test_image_folder_split_by_class_and_deterministic(tmp_path):
    folder = image_folder(tmp_path / "pictures", {"cat": 10, "dog": 5})
    found, again = load("pictures", path=folder), load("pictures", path=folder)
    assert found.classes == ("cat", "dog")
    assert found.train["x"].shape == (12, 4, 5, 3)
    assert np.bincount(found.test["y"]).tolist() == [2, 1]
    for side in (found.train, found.test):
        np.testing.assert_array_equal(side["x"][:, 0, 0, 0], side["y"])
        np.testing.assert_array_equal(side["x"][:, 0, 0, 1] + 10 * side["y"], side["index"])
    np.testing.assert_array_equal(found.train["index"], again.train["index"])
    assert found.source == again.source
    assert found.source.kind == "folder"


def test_the_sha256_of_a_folder_is_of_its_labels_too(tmp_path):
    folder = image_folder(tmp_path / "pictures", {"cat": 10, "dog": 10, "eel": 10})
    before = load("pictures", path=folder).source.sha256
    for one, other in (("cat", "spare"), ("dog", "cat"), ("spare", "dog")):
        (folder / one).rename(folder / other)
    again = load("pictures", path=folder).source.sha256
    assert again != before


def test_image_folder_with_its_own_sides(tmp_path):
    image_folder(tmp_path / "train", {"cat": 3, "dog": 2})
    image_folder(tmp_path / "test", {"cat": 1, "dog": 1})
    found = load("pictures", path=tmp_path)
    assert (len(found.train["y"]), len(found.test["y"])) == (5, 2)


def test_image_folders_that_cannot_be_read(tmp_path):
    image_folder(tmp_path / "a" / "train", {"cat": 1})
    image_folder(tmp_path / "a" / "test", {"dog": 1})
    with pytest.raises(DataNotFoundError, match=r"train has the classes \('cat',\), test \('dog',\)"):
        load("a", path=tmp_path / "a")
    image_folder(tmp_path / "b", {"cat": 5})
    image_folder(tmp_path / "b", {"dog": 5}, size=(9, 9))
    with pytest.raises(DataNotFoundError, match="several sizes"):
        load("b", path=tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataNotFoundError, match=r"c has no idx files, and no images"):
        load("c", path=tmp_path / "c")
    broken = image_folder(tmp_path / "d", {"cat": 5}) / "cat" / "02.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DamagedDataError, match=r"02\.png is not a whole image"):
        load("d", path=tmp_path / "d")


def test_a_bad_path_is_an_error_at_once_and_no_other_place_is_tried(tmp_path, known):
    for options in ({}, {"fallback": "made"}):
        with pytest.raises(DataNotFoundError, match=r"data\.path .*nowhere does not exist"):
            load("made", path=tmp_path / "nowhere", **options)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(DataNotFoundError, match=r"notes\.txt is a file; expected an \.npz, a \.deb, .* or a folder"):
        load("made", path=tmp_path / "notes.txt")


def test_a_damaged_file_is_not_passed_over_for_another_place(tmp_path, known, monkeypatch):
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
    (tmp_path / "made.npz").write_bytes(b"PK but no more")
    with pytest.raises(DamagedDataError, match=sha256(b"PK but no more")):
        load("made", fallback="digits")


def test_when_nothing_is_found_every_place_and_fix_is_listed_in_order(tmp_path, monkeypatch, known):
    def absent():
        raise DataNotFoundError("the package made is not installed")

    monkeypatch.setitem(resolve.KNOWN, "made", resolve.KNOWN["made"]._replace(package=absent))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with pytest.raises(DataNotFoundError) as caught:
        load("made", data_dir=tmp_path / "here")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("data set 'made' was not found")
    places = ["data_dir", "$TFDS_DATA_DIR", "~/tensorflow_datasets", "$CLUJAX_DATA_DIR", "installed package"]
    places += [f"{tmp_path / 'system'}/made", "network"]
    assert [line.split(":")[0].strip() for line in lines[1:8]] == places
    reasons = [
        "no prepared made",
        "no prepared made",
        "no prepared made",
        "not set",
        "the package made is not installed",
    ]
    reasons += ["no such folder", "not asked (download=False)"]
    for line, reason in zip(lines[1:8], reasons, strict=True):
        assert reason in line
    assert lines[8] == "To get it:"
    fixes = [
        'pip install "clujax[data]"',
        "apt-get install dataset-made",
        "TFDS_DATA_DIR=",
        "CLUJAX_DATA_DIR=",
        "--data.path=",
    ]
    assert len(lines) == 9 + len(fixes)
    for line, fix in zip(lines[9:], fixes, strict=True):
        assert line.strip().startswith(fix)


def test_a_set_prepared_as_tfrecord_is_named_with_its_fix(tmp_path):
    folder = tmp_path / "made" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": "made", "fileFormat": "tfrecord"}))
    for options in ({"data_dir": tmp_path}, {"path": folder}):
        with pytest.raises(DataNotFoundError) as caught:
            load("made", **options)
        assert (
            f'{folder} is prepared as tfrecord, which only TensorFlow reads; prepare it again with file_format="array_record"'
            in str(caught.value)
        )
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DataNotFoundError, match=r"dataset_info\.json is damaged"):
        load("made", path=folder)


def test_the_newest_prepared_version_is_taken_by_number(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        (tmp_path / "made" / version).mkdir(parents=True)
        (tmp_path / "made" / version / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    assert find_prepared("made", tmp_path).name == "1.10.0"


def test_a_fallback_is_used_only_when_asked_warned_of_once_and_recorded(tmp_path, caplog, known):
    with pytest.raises(DataNotFoundError):
        load("nothing_here")
    with caplog.at_level(logging.WARNING, "clujax"):
        found = load("nothing_here", fallback="made")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "data set 'nothing_here' was not found; using 'made', as asked by fallback=")
    ]
    assert found.source.kind == "fallback:package"
    assert found.source.path == "pip/made"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "clujax"):
        assert load("made", fallback="digits").source.kind == "package"
    assert not caplog.records


def test_the_network_is_asked_only_with_download_and_says_what_it_lacks(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "tensorflow" else real(name, *more)
    )
    with pytest.raises(
        DataNotFoundError, match=r"network: tensorflow-datasets prepares its own sets only with TensorFlow"
    ):
        load("cifar10", download=True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.5, 1.0]), "labels of dtype float64; expected integers"),
        (np.array([0, -1]), r"labels -1 … 1; expected 0 … 1"),
        (np.array([], int), "expected as many, not 0"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(tmp_path, labels, message):
    x = np.zeros((len(labels), 2))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=labels, x_test=np.zeros((2, 2)), y_test=np.array([0, 1]))
    with pytest.raises(DataNotFoundError, match=message):
        load("a", path=tmp_path / "a.npz")


def test_labels_beyond_the_classes_of_a_known_set_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 2)), y=np.arange(20))
    with pytest.raises(DataNotFoundError, match=r"labels 0 … 19; expected 0 … 9"):
        load("cifar10", path=tmp_path / "a.npz")


def test_preparing_over_a_set_or_from_uneven_parts_is_refused(tmp_path):
    part = {"train": (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, int))}
    with pytest.raises(ValueError, match="train has 3 images and 2 labels"):
        prepare("made", tmp_path, {"train": (part["train"][0], np.zeros(2, int))}, ("a",))
    prepare("made", tmp_path, part, ("a",))
    with pytest.raises(FileExistsError, match="prepared already; remove it"):
        prepare("made", tmp_path, part, ("a",))


def test_a_prepared_set_without_a_test_side_is_refused(tmp_path):
    prepare("made", tmp_path, {"train": (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, int))}, ("a",))
    with pytest.raises(DataNotFoundError, match=r"has the splits \['train'\]; expected train and test"):
        load("made", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y_train": np.array([0, 1, 2, 2**20])}, r"has a label 1048576; expected less than 1048576"),
        ({"y_train": np.array([0, 1, 2, 2**32])}, r"has a label 4294967296; expected less than"),
        ({"y_train": np.eye(4, dtype=int)}, r"labels of shape \(4, 4\); expected as many"),
        ({"x_test": np.zeros((2, 3, 3))}, r"training inputs \(2, 2\) but test inputs \(3, 3\)"),
        ({"x_train": np.float64(3)}, r"inputs of shape \(\) and labels of shape \(4,\)"),
        ({"x_train": np.array(["a"] * 4)}, r"inputs of dtype <U1; expected numbers"),
        ({"x_train": np.zeros((0, 2, 2)), "y_train": np.zeros(0, int)}, "expected as many, not 0"),
    ],
)
def test_columns_that_make_no_set_are_an_error_at_once(tmp_path, monkeypatch, arrays, message, known):
    whole = {"x_train": np.zeros((4, 2, 2)), "y_train": np.arange(4), "x_test": np.zeros((2, 2, 2))}
    np.savez(tmp_path / "plain.npz", **whole | {"y_test": np.arange(2)} | arrays)
    with pytest.raises(DamagedDataError, match=message):
        load("plain", path=tmp_path / "plain.npz")
    if "y_train" not in arrays:  # nor does the package's copy stand in for one's own file
        monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
        (tmp_path / "plain.npz").rename(tmp_path / "made.npz")
        with pytest.raises(DamagedDataError, match=message):
            load("made")


def test_a_path_or_name_that_says_nothing_is_refused(tmp_path, monkeypatch, write_idx):
    monkeypatch.chdir(write_idx(tmp_path / "set"))
    with pytest.raises(DataNotFoundError, match=r"data\.path is empty"):
        load("made", path="")
    assert load("made", path=".").source.path == "set"
    for name in ("", "/made", "../made"):
        with pytest.raises(DataNotFoundError, match="expected a name such as digits, mnist"):
            load(name)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataNotFoundError, match="has no idx files"):
        load("made", path=tmp_path / "folder.npz")


def test_a_near_name_is_suggested():
    with pytest.raises(DataNotFoundError, match=r"'fashionmnist' was not found \(did you mean 'fashion_mnist'\?\)"):
        load("fashionmnist")


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    return prepare("tiny", folder, {"train": (x, np.arange(40) % 4), "test": (x[:9], np.arange(9) % 4)}, tuple("abcd"))


@pytest.mark.parametrize("change", ["cut", "gone", "bytes", "features", "info"])
def test_a_damaged_prepared_set_is_named_and_never_passed_over(tmp_path, tiny_set, change):
    folder = tmp_path / "tiny" / "1.0.0"
    shutil.copytree(tiny_set, folder)
    record = next(folder.glob("*train*"))
    raw = record.read_bytes()
    if change == "cut":
        record.write_bytes(raw[: len(raw) // 2])
    elif change == "gone":
        record.unlink()
    elif change == "bytes":
        record.write_bytes(raw[:70_000] + bytes(255 - byte for byte in raw[70_000:100_000]) + raw[100_000:])
    else:
        (folder / {"features": "features.json", "info": "dataset_info.json"}[change]).write_text("{")
    with pytest.raises(DamagedDataError, match="prepare it again") as caught:
        load("tiny", data_dir=tmp_path)
    assert str(folder) in str(caught.value)


def test_rows_of_a_prepared_set_are_fed_under_their_raw_numbers(tiny_set):
    whole, rows = load("tiny", path=tiny_set), PreparedRows(tiny_set, "train")
    assert len(rows) == 40
    raw = whole.train["x"][np.argsort(whole.train["index"])]
    batch_at = feed(rows, 8, jax.random.key(0))
    batches = [batch_at(step) for step in range(5)]
    for batch in batches:
        np.testing.assert_array_equal(batch["x"], raw[batch["index"]])
        np.testing.assert_array_equal(batch["y"], batch["index"] % 4)
        assert {name: column.dtype for name, column in batch.items()} == {
            "x": np.uint8,
            "y": np.int32,
            "index": np.int32,
        }
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == list(range(40))
    with pytest.raises(DataNotFoundError, match=r"has the splits \['test', 'train'\]; lacking 'validation'"):
        PreparedRows(tiny_set, "validation")
