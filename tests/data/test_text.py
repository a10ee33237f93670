"""Text sets in tiny files of the real formats: archive in archive, tables, what is missing and what is not the known content."""

import io
import tarfile

import numpy as np
import pytest

from clujax.data import text
from clujax.data.files import DamagedDataError, sha256
from clujax.errors import DataNotFoundError

LINES = "".join(f"{i}\t{score}\tsentence {i}\n" for i, score in enumerate([1.5, -0.5, 0.0] * 10)).encode()


def packed(name, content):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        member = tarfile.TarInfo(f"folder/{name}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(text.VADER, "tweets", ("tweets", sha256(LINES)))


def test_sentences_in_an_archive_in_an_archive(tmp_path, known, monkeypatch):
    inner = packed("tweets_GroundTruth.txt", LINES)
    (tmp_path / "vader").mkdir()
    (tmp_path / "vader" / "vaderSentiment-9.tar.gz").write_bytes(packed(text.VADER_ARCHIVE, inner))
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
    found = text.load_text("tweets")
    assert (len(found.train[0]), len(found.test[0])) == (16, 4)  # without the ten scores of exactly 0
    np.testing.assert_array_equal(np.bincount(found.test[1]), [2, 2])
    assert set(found.train[0]).isdisjoint(found.test[0])
    for texts, labels in (found.train, found.test):
        assert all(int(each.split()[1]) % 3 == 1 - label for each, label in zip(texts, labels))
    again = text.load_text("tweets", path=tmp_path / "vader" / "vaderSentiment-9.tar.gz")
    assert again.train[0] == found.train[0]
    columns = text.tokenized(found, lambda texts, length: np.ones((len(texts), length), np.int32), 7)
    assert columns.train["x"].shape == (16, 7)


def test_a_corpus_with_its_own_split(tmp_path, monkeypatch):
    head = "Category\tText\nd\tstring\nclass\t\n"
    sides = {"train": head + "\t\nearn\tnet profit\nacq\tbuys a share\n", "test": head + "earn\tloss\n"}
    for part, content in sides.items():
        (tmp_path / f"reuters-r8-{part}.tab").write_text(content)
    digests = tuple(sha256(content.encode()) for content in sides.values())
    monkeypatch.setitem(text.ORANGE, "reuters_r8", ("reuters-r8", digests))
    found = text.load_text("reuters_r8", path=tmp_path)
    assert found.classes == ("acq", "earn")
    assert found.train[0] == ["net profit", "buys a share"]
    np.testing.assert_array_equal(found.train[1], [1, 0])
    np.testing.assert_array_equal(found.test[1], [1])


def test_what_is_missing_or_another_content(tmp_path, known, monkeypatch):
    monkeypatch.delenv("CLUJAX_DATA_DIR", raising=False)
    with pytest.raises(DataNotFoundError, match="movie_snippets"):
        text.load_text("films")
    with pytest.raises(DataNotFoundError, match=r"not set[\s\S]*pip download"):
        text.load_text("tweets")
    with pytest.raises(DataNotFoundError, match="does not exist"):
        text.load_text("tweets", path=tmp_path / "none")
    (tmp_path / "tweets_GroundTruth.txt").write_bytes(LINES + b"31\t1.0\tmore\n")
    with pytest.raises(DamagedDataError, match="sha256"):
        text.load_text("tweets", path=tmp_path)
    (tmp_path / "broken.tar.gz").write_bytes(packed("x", b"y" * 999)[:-20])
    with pytest.raises(DataNotFoundError):
        text.load_text("tweets", path=tmp_path / "broken.tar.gz")
