import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from clujax.data import crop_flip, padded, resident, standardize

KEY = jax.random.key(0)


def columns(rows):
    return {"x": np.arange(rows * 2.0, dtype=np.float32).reshape(rows, 2), "row": np.arange(rows)}


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 9), batch_size=st.integers(1, 12), seed=st.integers(0, 99))
def test_each_epoch_of_the_stream_is_every_row_once(rows, batch_size, seed):
    batch_at = resident(columns(rows), batch_size, jax.random.key(seed))
    epochs = 3
    steps = -(-epochs * rows // batch_size)
    batches = [batch_at(step) for step in range(steps)]
    assert all(batch["row"].shape == (batch_size,) for batch in batches)
    stream = np.concatenate([batch["row"] for batch in batches])[: epochs * rows].reshape(epochs, rows)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(rows), (epochs, 1)))
    for batch in batches:
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["row"])


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)))
def test_a_batch_depends_on_the_step_alone(steps):
    fresh = functools.cache(lambda step: np.asarray(resident(columns(7), 5, KEY)(step)["row"]))
    batch_at = resident(columns(7), 5, KEY)
    for step in steps:
        np.testing.assert_array_equal(batch_at(step)["row"], fresh(step))


def test_far_steps_are_reached_without_walking_there():
    batch_at = resident(columns(7), 5, KEY)
    far = batch_at(10**9)["row"]
    np.testing.assert_array_equal(far, resident(columns(7), 5, KEY)(10**9)["row"])
    np.testing.assert_array_equal(far, batch_at(np.int32(10**9))["row"], "the position wrapped round in int32")


def test_epochs_and_keys_are_shuffled_differently():
    one, other = (resident(columns(50), 50, jax.random.key(seed)) for seed in (0, 1))
    orders = {tuple(np.asarray(batch["row"])) for batch in (one(0), one(1), other(0))}
    assert len(orders) == 3


def test_a_set_smaller_than_a_batch_is_repeated():
    batch = resident(columns(3), 8, KEY)(0)
    assert np.bincount(batch["row"]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


@pytest.mark.parametrize("axes", list(jax.sharding.AxisType)[:2])
def test_eight_devices_get_the_same_batches_laid_out_as_asked(axes):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axes,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    spread, plain = resident(columns(21), 16, KEY, sharding=sharding), resident(columns(21), 16, KEY)
    for step in (0, 1, 5):
        batch = spread(step)
        assert all(column.sharding.is_equivalent_to(sharding, column.ndim) for column in batch.values())
        assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 2)}
        jax.tree.map(np.testing.assert_array_equal, batch, plain(step))


@pytest.mark.parametrize(
    ("arrays", "batch_size", "message"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, 2, "columns of one length of at least 1; got {'x': 3, 'y': 4}"),
        ({"x": np.zeros(0)}, 2, "got {'x': 0}"),
        ({}, 2, "got {}"),
        ({"x": np.zeros(3)}, 0, "batch_size is 0; expected at least 1"),
        ({"x": np.zeros(3)}, -4, "batch_size is -4"),
    ],
)
@pytest.mark.parametrize("make", [lambda *a: resident(*a, KEY), lambda *a: list(padded(*a))])
def test_columns_and_sizes_that_make_no_batch(make, arrays, batch_size, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        make(arrays, batch_size)


@given(st.integers(1, 20), st.integers(1, 9))
def test_padded_gives_every_row_once_in_order_in_one_shape(rows, batch_size):
    batches = list(padded(columns(rows), batch_size))
    assert len(batches) == -(-rows // batch_size)
    assert {batch["x"].shape for batch in batches} == {(batch_size, 2)}
    assert all(batch["weight"].dtype == np.float32 for batch in batches)
    weight = np.concatenate([batch["weight"] for batch in batches])
    stream = np.concatenate([batch["row"] for batch in batches])
    np.testing.assert_array_equal(stream[weight == 1], np.arange(rows))
    np.testing.assert_array_equal(weight, np.arange(len(weight)) < rows)
    assert (stream < rows).all(), "padding points outside the data"


IMAGES = np.random.default_rng(0).integers(1, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., 0]])
def test_crop_flip_shifts_and_mirrors_each_image_by_itself(images):
    out = np.asarray(jax.jit(functools.partial(crop_flip, pad=2))(KEY, images))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    room = ((2, 2), (2, 2)) + ((0, 0),) * (images.ndim - 3)
    draws = []
    for image, found in zip(images, out, strict=True):
        spread = np.pad(image, room)
        views = {
            (top, left, flip): spread[top : top + 8, left : left + 8][:, :: -1 if flip else 1]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        hits = [draw for draw, view in views.items() if np.array_equal(view, found)]
        assert len(hits) == 1
        draws += hits
    assert len({draw[:2] for draw in draws}) > 1
    assert {draw[2] for draw in draws} == {False, True}


def test_crop_flip_draws_every_place_and_mirror_alike():
    one = np.zeros((4000, 3, 3), np.uint8)
    one[:, 1, 1] = 1
    found = np.asarray(crop_flip(KEY, jnp.asarray(one), pad=1)).reshape(4000, 9).argmax(1)
    np.testing.assert_allclose(np.bincount(found, minlength=9) / 4000, 1 / 9, atol=0.03)
    one = np.tile(np.array([[1, 2]], np.uint8), (4000, 2, 1))
    found = np.asarray(crop_flip(KEY, jnp.asarray(one), pad=0))[:, 0, 0]
    np.testing.assert_allclose((found == 2).mean(), 0.5, atol=0.03)


def test_crop_flip_is_pure_in_its_key_and_without_room_only_mirrors():
    one, again, other = (crop_flip(jax.random.key(seed), jnp.asarray(IMAGES), pad=2) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    for image, found in zip(IMAGES, np.asarray(crop_flip(KEY, jnp.asarray(IMAGES), pad=0)), strict=True):
        assert np.array_equal(found, image) or np.array_equal(found, image[:, ::-1])


def test_standardize_gives_mean_0_and_deviation_1_by_channel():
    mean, std = IMAGES.mean((0, 1, 2)), IMAGES.std((0, 1, 2))
    out = np.asarray(standardize(mean.tolist(), std.tolist())(IMAGES))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-5)


def test_standardize_gives_gray_images_a_channel_and_stands_a_constant_one():
    out = jax.jit(standardize([3.0], [0.0]))(np.full((2, 4, 4), 3, np.uint8))
    assert out.shape == (2, 4, 4, 1)
    np.testing.assert_array_equal(out, 0)
