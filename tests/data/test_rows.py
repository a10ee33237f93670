"""Columns that lie on disk behave like arrays and are read no further than asked."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax import data
from clujax.data import Rows, feed, load, on_disk, resident, take_rows
from clujax.data.files import BLOCK, DamagedDataError, read_npy_folder


@pytest.fixture
def folder(tmp_path, sides):
    """The made set as a folder of npy files."""
    place = tmp_path / "mapped"
    place.mkdir()
    for name, part in zip(("x_train", "y_train", "x_test", "y_test"), sides, strict=True):
        np.save(place / f"{name}.npy", part)
    return place


class Counted:
    """A column that counts the rows that are read of it."""

    def __init__(self, column):
        self.column, self.read = column, []
        self.shape, self.dtype, self.ndim = column.shape, column.dtype, column.ndim

    def __len__(self):
        return len(self.column)

    def __getitem__(self, rows):
        self.read += np.atleast_1d(rows).tolist()
        return self.column[rows]


NUMBERS = np.arange(60.0).reshape(10, 3, 2)
INDICES = [
    4,
    np.int64(-1),
    slice(1, 7, 2),
    [2, 2, 0],
    np.arange(7) > 3,
    (slice(None), 1),
    (3, ..., 0),
    (..., None),
    None,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_gives_what_it_gives_of_an_array(index):
    rows = np.array([9, 0, 3, 3, 7, 1, 5])
    view, array = Rows(NUMBERS, rows), NUMBERS[rows]
    np.testing.assert_array_equal(view[index], array[index])
    np.testing.assert_array_equal(view, array)
    assert (len(view), view.shape, view.dtype, view.ndim, view.nbytes) == (
        len(array),
        array.shape,
        array.dtype,
        array.ndim,
        array.nbytes,
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
def test_a_choice_of_a_choice_is_the_choice_at_once(rows, data):
    again = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)), int)
    np.testing.assert_array_equal(Rows(NUMBERS, np.array(rows)).chosen(again), NUMBERS[rows][again])


def test_taking_rows_of_a_memory_map_reads_nothing():
    column = Counted(NUMBERS)
    view = Rows(column, np.arange(10)).chosen(slice(2, 8))
    assert (len(view), column.read) == (6, [])
    np.testing.assert_array_equal(view[1:3], NUMBERS[3:5])
    assert column.read == [3, 4]
    with pytest.raises(ValueError, match="cannot be had without a copy"):
        np.array(view, copy=False)


def test_a_folder_of_npy_files_stays_on_disk(folder, sides):
    found = load("mine", path=folder)
    assert on_disk(found.train["x"])
    assert found.train["x"].shape == (20, 6, 6, 1)
    np.testing.assert_array_equal(found.test["y"], sides[3])
    assert (found.source.kind, found.source.path, found.source.n) == ("npy", "mapped", 30)
    some = take_rows(found.train, np.array([5, 1, 19]))
    assert isinstance(some["x"], Rows)
    assert not on_disk(some["y"])
    np.testing.assert_array_equal(some["x"], sides[0][[5, 1, 19]][..., None])
    np.testing.assert_array_equal(some["index"], [5, 1, 19])


def test_three_batches_touch_only_their_rows(folder):
    columns = take_rows(load("mine", path=folder).train, slice(3, 18))
    counted = Counted(columns["x"].column)
    batch_at = feed({**columns, "x": Rows(counted, columns["x"].rows)}, 4, jax.random.key(0), prefetch=0)
    expected = resident({name: np.asarray(column) for name, column in columns.items()}, 4, jax.random.key(0))
    rows = []
    for step in (1, 2, 3):
        batch = batch_at(step)
        rows += batch["index"].tolist()
        jax.tree.map(np.testing.assert_array_equal, batch, expected(step))
    assert sorted(counted.read) == sorted(rows)


def test_the_hash_follows_from_the_content_and_a_large_file_is_sampled(folder, tmp_path):
    _, digest = read_npy_folder(folder)
    assert read_npy_folder(folder)[1] == digest
    large = np.lib.format.open_memmap(folder / "x_train.npy", "w+", np.uint8, (20, 10, BLOCK))  # a sparse file
    large[0, 0, 0] = 1
    _, sampled = read_npy_folder(folder)
    large[10, 5, BLOCK // 3] = 1  # between the blocks
    assert read_npy_folder(folder)[1] == sampled != digest
    large[-1, -1, -1] = 1
    assert read_npy_folder(folder)[1] != sampled


@pytest.mark.parametrize("damage", ["gone", "cut", "objects"])
def test_a_damaged_folder_is_named(folder, damage):
    file = folder / "y_train.npy"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        np.save(file, np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(DamagedDataError, match=r"y_train\.npy"):
        load("mine", path=folder)


def test_a_sample_of_a_column_on_disk_is_spread_over_all_of_it(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(1000))
    column = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert data.spread(column, 4).tolist() == [0, 333, 666, 999]
    assert data.spread(Rows(column, np.arange(10, 20)), 4).tolist() == [10, 13, 16, 19]
    assert len(data.spread(column, 1000)) == 1000
    assert len(data.spread(np.arange(50), 4)) == 50  # in memory already
