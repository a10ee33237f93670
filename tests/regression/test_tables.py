import numpy as np
import pytest

from clujax.errors import DataNotFoundError
from clujax.regression.tables import load_table


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("CLUJAX_DATA_DIR", raising=False)


def test_diabetes_comes_with_scikit_learn(nowhere):
    from sklearn.datasets import load_diabetes

    table = load_table("diabetes")
    theirs = load_diabetes(scaled=False)
    np.testing.assert_array_equal(table.x, theirs.data)
    np.testing.assert_array_equal(table.y, theirs.target)
    assert (table.source.kind, table.source.n, len(table.features)) == ("package", 442, 10)


def test_csv_with_and_without_a_header(tmp_path, nowhere):
    file = tmp_path / "mine.csv"
    file.write_text("a,b,c\n1,2,3\n4,5,6\n")
    table = load_table("mine", path=file)
    assert (table.features, table.target, table.y.tolist()) == (("a", "b"), "c", [3, 6])
    table = load_table("mine", path=file, target="a")
    assert (table.features, table.y.tolist(), table.x.tolist()) == (("b", "c"), [1, 4], [[2, 3], [5, 6]])
    file.write_text("1,2\n3,4\n")
    assert load_table("mine", path=file).x.tolist() == [[1], [3]]


def test_the_data_directory_is_searched(tmp_path, monkeypatch):
    (tmp_path / "regression").mkdir()
    np.savez(tmp_path / "regression" / "yacht.npz", X=np.ones((3, 2)), y=np.arange(3.0))
    monkeypatch.setenv("CLUJAX_DATA_DIR", str(tmp_path))
    assert load_table("yacht").source.path == "yacht.npz"


def test_what_is_not_found_tells_where_and_how(nowhere):
    with pytest.raises(DataNotFoundError, match=r"(?s)CLUJAX_DATA_DIR: not set.*--data.path"):
        load_table("yacht")
    with pytest.raises(DataNotFoundError, match="Known: diabetes"):
        load_table("yatch")
    with pytest.raises(DataNotFoundError, match="is no file"):
        load_table("x", path="/nowhere.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 values where 2"),
        ("a,b\n1,red\n", "column 'b' holds 'red'"),
        ("a,b\n1,nan\n", "missing or infinite"),
        ("", "no rows"),
    ],
)
def test_damaged_csv_is_told_by_line_and_column(tmp_path, text, words):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(DataNotFoundError, match=words):
        load_table("bad", path=file)


def test_a_column_that_is_not_there(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataNotFoundError, match="no column 'z'; its columns: a, b"):
        load_table("mine", path=file, target="z")


def test_npz_without_the_arrays(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.ones((3, 2)))
    with pytest.raises(DataNotFoundError, match="X \\[n, m\\] and y"):
        load_table("bad", path=tmp_path / "bad.npz")
