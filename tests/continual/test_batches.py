import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from clujax.continual.batches import rows_at
from clujax.training.compiling import compilations

N = 24
KEY = jax.random.key(3)
COLUMNS = {"x": jnp.arange(2.0 * N).reshape(N, 2), "row": jnp.arange(N)}
SUBSETS = st.sets(st.integers(0, N - 1), min_size=1).map(lambda rows: np.array(sorted(rows)))


def stream(rows, count, batch_size=4, key=KEY):
    """The first `count` rows of the stream of batches."""
    batch_at = rows_at(COLUMNS, rows, batch_size, key)
    batches = [np.asarray(batch_at(step)["row"]) for step in range(-(-count // batch_size))]
    return np.concatenate(batches)[:count]


@settings(max_examples=25, deadline=None)
@given(rows=SUBSETS, batch_size=st.integers(1, 6), seed=st.integers(0, 99))
def test_each_epoch_is_every_row_once_and_batches_are_of_one_size(rows, batch_size, seed):
    batch_at = rows_at(COLUMNS, rows, batch_size, jax.random.key(seed))
    steps = -(-3 * len(rows) // batch_size)
    batches = [batch_at(step) for step in range(steps)]
    assert all(batch["row"].shape == (batch_size,) for batch in batches)
    epochs = np.concatenate([batch["row"] for batch in batches])[: 3 * len(rows)].reshape(3, -1)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(rows, (3, 1)))
    for batch in batches:
        np.testing.assert_array_equal(batch["x"], COLUMNS["x"][batch["row"]])


@settings(max_examples=10, deadline=None)
@given(rows=SUBSETS, steps=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_a_batch_depends_on_the_step_alone(rows, steps):
    walked = rows_at(COLUMNS, rows, 5, KEY)
    for step in steps:
        begun_there = rows_at(COLUMNS, rows, 5, KEY)(step)["row"]
        np.testing.assert_array_equal(walked(step)["row"], begun_there)
        np.testing.assert_array_equal(walked(np.int64(step))["row"], begun_there)


@settings(max_examples=25, deadline=None)
@given(rows=SUBSETS, chosen=SUBSETS, order=st.randoms(use_true_random=False))
def test_a_subset_is_ordered_like_its_union_restricted(rows, chosen, order):
    """In every epoch; how the rows are split, or listed, does not matter."""
    part = np.intersect1d(rows, chosen)
    if not part.size:
        part = rows[:1]
    listed = part.tolist()
    order.shuffle(listed)
    whole, some = (stream(each, 2 * len(each)).reshape(2, -1) for each in (rows, np.array(listed)))
    for epoch in range(2):
        np.testing.assert_array_equal(some[epoch], whole[epoch][np.isin(whole[epoch], part)])


def test_epochs_and_keys_have_orders_of_their_own():
    rows = np.arange(N)
    first, second = stream(rows, 2 * N).reshape(2, -1)
    assert len({tuple(first), tuple(second), tuple(stream(rows, N, key=jax.random.key(4)))}) == 3


def test_far_steps_are_reached_without_walking_there():
    step, rows = 10**8, np.arange(7)
    far = rows_at(COLUMNS, rows, 7, KEY)(step)["row"]
    np.testing.assert_array_equal(np.sort(far), rows)


def test_nothing_is_compiled_for_a_subset_of_another_size():
    stream(np.arange(5), 20)
    with compilations() as found:
        for count in (1, 2, 9, N):
            stream(np.arange(count), 3 * N)
        stream(np.arange(9), 3 * N, key=jax.random.key(9))
    assert found() == 0


def test_the_counter_of_compilations_counts():
    with compilations() as found:
        jax.jit(lambda x: x * 3.25 + 1)(jnp.arange(11.0))
    assert found()


@pytest.mark.parametrize("axes", list(jax.sharding.AxisType)[:2])
def test_eight_devices_get_the_same_batches_laid_out_as_asked(axes):
    sharding = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(axes,)), PartitionSpec("data"))
    rows = np.arange(3, 20)
    spread, plain = rows_at(COLUMNS, rows, 16, KEY, sharding=sharding), rows_at(COLUMNS, rows, 16, KEY)
    for step in (0, 1, 5):
        batch = spread(step)
        assert all(column.sharding.is_equivalent_to(sharding, column.ndim) for column in batch.values())
        jax.tree.map(np.testing.assert_array_equal, batch, plain(step))


def test_no_rows_are_refused_before_any_batch():
    with pytest.raises(ValueError, match="no rows"):
        rows_at(COLUMNS, np.zeros(0, int), 4, KEY)
