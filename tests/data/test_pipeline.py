"""Batches read in the background are the resident ones, whatever the step, the devices and the kind of source."""

import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from clujax.data import feed, resident

KEY = jax.random.key(3)


def columns(rows):
    draw = np.random.default_rng(rows)
    return {"x": draw.normal(size=(rows, 2, 3)), "y": np.arange(rows) % 3, "row": np.arange(rows, dtype=np.int64)}


class Rows:
    """A source of rows that counts what is read of it."""

    def __init__(self, columns):
        self.columns, self.read = columns, []

    def __len__(self):
        return len(self.columns["row"])

    def __getitem__(self, row):
        self.read.append(row)
        return {name: column[row] for name, column in self.columns.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].dtype, one[name].weak_type) == (other[name].dtype, other[name].weak_type)
        assert one[name].sharding.is_equivalent_to(other[name].sharding, one[name].ndim)
        np.testing.assert_array_equal(one[name], other[name])


@settings(max_examples=12, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 7]),
    batch_size=st.sampled_from([1, 5, 7, 12]),
    seed=st.integers(0, 9),
    steps=st.lists(st.integers(0, 30), max_size=6),
    prefetch=st.integers(0, 3),
)
def test_batches_are_those_of_resident_after_any_jump(rows, batch_size, seed, steps, prefetch):
    key, held = jax.random.key(seed), columns(rows)
    ours, theirs = feed(held, batch_size, key, prefetch=prefetch), resident(held, batch_size, key)
    for step in [*steps, 0, 1, 2, 10**8]:
        assert_same(ours(step), theirs(step))


@settings(max_examples=10, deadline=None)
@given(rows=st.sampled_from([1, 3, 7, 20]), batch_size=st.integers(1, 12))
def test_each_epoch_is_every_row_once(rows, batch_size):
    batch_at, steps = feed(Rows(columns(rows)), batch_size, KEY), -(-3 * rows // batch_size)
    stream = np.concatenate([batch_at(step)["row"] for step in range(steps)])[: 3 * rows].reshape(3, rows)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(rows), (3, 1)))


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "model": 4}, {"model": 8}, {"data": 2, "fsdp": 4}])
@pytest.mark.parametrize("kind", [dict, Rows])
def test_devices_get_the_same_batches_laid_out_as_asked(axes, kind):
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,) * len(axes))
    shared = tuple(name for name in axes if name != "model")
    sharding = NamedSharding(mesh, PartitionSpec(shared) if shared else PartitionSpec())
    ours, theirs = (
        make(kind(columns(21)) if make is feed else columns(21), 16, KEY, sharding=sharding)
        for make in (feed, resident)
    )
    for step in (4, 5, 0):
        assert_same(ours(step), theirs(step))


def test_a_batch_split_in_more_than_rows():
    mesh = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    column = {"x": np.arange(80.0, dtype=np.float32).reshape(5, 4, 4)}
    batch = feed(column, 6, KEY, sharding=sharding)(3)["x"]
    assert {shard.data.shape for shard in batch.addressable_shards} == {(3, 4, 2)}
    np.testing.assert_array_equal(batch, resident(column, 6, KEY)(3)["x"])


def test_rows_held_by_several_devices_are_read_once_and_no_others():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    source = Rows(columns(1000))
    batch_at = feed(source, 16, KEY, sharding=NamedSharding(mesh, PartitionSpec("data")), prefetch=0)
    rows = np.concatenate([batch_at(step)["row"] for step in (7, 8, 9)])
    assert sorted(source.read) == sorted(rows.tolist())


def test_batches_are_read_ahead_by_threads_that_end_with_the_feed():
    source, before = Rows(columns(50)), set(threading.enumerate())
    batch_at = feed(source, 5, KEY, prefetch=3)
    batch_at(0)
    started = set(threading.enumerate()) - before
    assert started
    batch_at.close()
    assert len(source.read) <= 4 * 5 + 5
    with pytest.raises(ValueError, match="closed"):
        batch_at(1)
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()


def test_what_a_source_cannot_read_is_said_by_the_step_that_needs_it():
    class Broken(Rows):
        def __getitem__(self, row):
            if row == 3:
                raise OSError("row 3 is gone")
            return super().__getitem__(row)

    batch_at = feed(Broken(columns(6)), 6, KEY)
    with pytest.raises(OSError, match="row 3 is gone"):
        batch_at(0)


def test_rows_that_devices_cannot_share_are_refused_before_reading():
    sharding = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    with pytest.raises(ValueError, match="should evenly divide"):
        feed(columns(30), 12, KEY, sharding=sharding)
    with pytest.raises(ValueError, match=r"got {'rows': 0}"):
        feed(Rows(columns(0)), 2, KEY)
