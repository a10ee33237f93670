import gzip
import hashlib
import re
import tarfile

import numpy as np
import pytest

from clujax.data import load
from clujax.data.files import MNIST, DamagedDataError, read_idx, read_npz, sha256
from clujax.errors import DataNotFoundError


def idx_file(path, shape=(3, 2), zipped=False):
    content = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    content += bytes(range(int(np.prod(shape))))
    path.write_bytes(gzip.compress(content) if zipped else content)
    return content


@pytest.mark.parametrize("zipped", [False, True])
def test_an_idx_file_is_read_and_hashed_by_its_content(tmp_path, zipped):
    content = idx_file(tmp_path / "file", zipped=zipped)
    array, found = read_idx(tmp_path / "file", sha256(content))
    np.testing.assert_array_equal(array, np.arange(6).reshape(3, 2))
    assert found == hashlib.sha256(content).hexdigest()


def damaged(path, wanted="e" * 64):
    with pytest.raises(DamagedDataError) as caught:
        read_idx(path, wanted)
    message = str(caught.value)
    assert str(path) in message
    assert wanted in message, "the expected sha256 is not named"
    assert len(re.findall(r"\b[0-9a-f]{64}\b", message)) == 2, "both sha256 are to be named"
    assert "Get it again" in message
    assert isinstance(caught.value, DataNotFoundError)
    return message


def test_a_gz_cut_short_is_damaged(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(4096))[:1000])
    message = damaged(path)
    assert sha256(path.read_bytes()) in message


def test_a_gz_with_bytes_changed_within_is_damaged(tmp_path):
    path = tmp_path / "a.gz"
    raw = bytearray(gzip.compress(b"some words again and again " * 200))
    raw[12:40] = b"\xff" * 28
    path.write_bytes(raw)
    damaged(path)


def test_a_wrong_magic_number_is_damaged(tmp_path):
    path = tmp_path / "page"
    path.write_bytes(b"<html>404 not found</html>")
    assert "not an idx file" in damaged(path)
    assert sha256(path.read_bytes()) in damaged(path)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:9]])
def test_a_wrong_length_is_damaged(tmp_path, change):
    path = tmp_path / "file"
    path.write_bytes(change(idx_file(path)))
    damaged(path)


def test_other_content_is_damaged_and_both_sha256_are_named(tmp_path):
    path = tmp_path / "file"
    content = idx_file(path)
    message = damaged(path)
    assert sha256(content) in message


def test_idx_files_of_another_set_are_not_taken_for_a_known_one(tmp_path, write_idx):
    folder = write_idx(tmp_path / "set")
    with pytest.raises(DamagedDataError, match=f"expected {MNIST['train-images']}"):
        load("mnist", path=folder)


def test_a_folder_that_lacks_one_of_four_files_says_which(tmp_path, write_idx):
    folder = write_idx(tmp_path / "set", zipped=True)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFoundError, match=r"has none of t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte\.gz"):
        load("made", path=folder)


def test_as_many_images_as_labels_are_asked_for(tmp_path, write_idx):
    folder = write_idx(tmp_path / "set")
    idx_file(folder / "t10k-labels-idx1-ubyte", (9,))
    with pytest.raises(DataNotFoundError, match=r"t10k has 10 images but 9 labels"):
        load("made", path=folder)


def npz_damaged(path):
    with pytest.raises(DamagedDataError, match=sha256(path.read_bytes())) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_an_npz_cut_short_is_damaged_and_its_sha256_named(tmp_path, write_npz):
    path = write_npz(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:-100])
    npz_damaged(path)


@pytest.mark.parametrize("place", range(60, 1000, 120))
def test_an_npz_with_bytes_changed_within_is_damaged(tmp_path, write_npz, place):
    path = write_npz(tmp_path / "a.npz")
    raw = bytearray(path.read_bytes())
    raw[place : place + 20] = bytes(255 - byte for byte in raw[place : place + 20])
    path.write_bytes(raw)
    npz_damaged(path)


def test_an_npz_that_is_no_zip_or_holds_objects_or_other_names_is_damaged(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"")
    npz_damaged(path)
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    npz_damaged(path)
    np.savez(path, x=np.array([{}, {}]), y=np.arange(2))
    npz_damaged(path)
    np.savez(path, images=np.zeros((2, 2)))
    assert "holds ['images']; expected x_train" in npz_damaged(path)
    np.savez(path, x=np.zeros((3, 2)), y=np.arange(2))
    assert "3 x but 2 y" in npz_damaged(path)


def test_an_npz_of_x_and_y_keeps_every_fifth_row_for_testing_under_its_raw_number(tmp_path):
    path = tmp_path / "table.npz"
    x, y = np.arange(24.0).reshape(12, 2), np.arange(12) % 3
    np.savez(path, x=x, y=y)
    found = load("table", path=path)
    assert found.test["index"].tolist() == [4, 9]
    for side in (found.train, found.test):
        np.testing.assert_array_equal(side["x"], x[side["index"]])
        np.testing.assert_array_equal(side["y"], y[side["index"]])
    assert len(found.train["y"]) == 10
    assert found.classes == ("0", "1", "2")


def deb_of(path, tar):
    """A Debian package as `ar` makes it: members of odd length are followed by one byte."""
    content = b"!<arch>\n"
    for name, body in ((b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", tar)):
        content += b"%-16s%-12s%-6s%-6s%-8s%-10d`\n" % (name, b"0", b"0", b"0", b"100644", len(body))
        content += body + b"\n" * (len(body) % 2)
    path.write_bytes(content)


@pytest.fixture(params=["set.tgz", "set.tar", "set.tar.xz", "set.deb"])
def archive(request, tmp_path, write_idx):
    folder = write_idx(tmp_path / "folder", zipped=request.param != "set.tgz")
    path = tmp_path / request.param
    mode = {"set.tgz": "w:gz", "set.tar": "w"}.get(request.param, "w:xz")
    with tarfile.open(path, mode) as tar:
        tar.add(folder, "./package/data")
    if path.suffix == ".deb":
        deb_of(path, path.read_bytes())
    return path


def test_idx_files_in_an_archive_are_the_same_data_as_in_a_folder(archive, tmp_path, monkeypatch):
    found, folder = load("made", path=archive), load("made", path=tmp_path / "folder")
    np.testing.assert_array_equal(found.train["x"], folder.train["x"])
    np.testing.assert_array_equal(found.test["y"], folder.test["y"])
    assert found.source == folder.source._replace(path=archive.name)
    (tmp_path / "mine" / "made").mkdir(parents=True)
    archive.rename(tmp_path / "mine" / "made" / archive.name)
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path / "mine"))
    assert load("made").source == found.source


@pytest.mark.parametrize("share", [0, 0.2])  # the rest of a tar may be padding
def test_an_archive_cut_short_is_damaged_and_its_sha256_named(archive, share):
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(DamagedDataError, match=sha256(archive.read_bytes())):
        load("made", path=archive)


def test_an_archive_of_other_data_names_its_member(archive):
    with pytest.raises(DamagedDataError, match=rf"{archive.name}/train-images.*expected {MNIST['train-images']}"):
        load("mnist", path=archive)


def test_a_folder_with_one_npz_is_read_and_with_two_is_refused(tmp_path, write_npz):
    write_npz(tmp_path / "one.npz")
    assert load("made", path=tmp_path).source.path == "one.npz"
    write_npz(tmp_path / "two.npz")
    with pytest.raises(DataNotFoundError, match=r"has one\.npz, two\.npz; give the path of one of them"):
        load("made", path=tmp_path)
