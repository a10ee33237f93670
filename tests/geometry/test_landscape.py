"""Sharpness of a known quadratic, and slices along directions normalised by filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax import geometry
from clujax.geometry import Layout

PARAMS = {"a": {"kernel": jnp.array([[1.0, 2.0], [0.0, -1.0]]), "bias": jnp.array([1.0, 3.0])}}
LAYOUTS = {"a/kernel": Layout((0,))}
LOSS = lambda p: jnp.sum(p["a"]["kernel"] ** 2) + jnp.sum(p["a"]["bias"])


def test_sharpness_of_a_quadratic():
    """E‖W + ε‖² − ‖W‖² = τ²·Σ_i ‖W_i‖², since a filter's n entries each have variance τ²‖W_i‖²/n."""
    scale = geometry.filter_wise(LAYOUTS)
    found = geometry.sharpness(LOSS, PARAMS, jax.random.key(0), 0.5, scale, num_samples=20_000)
    np.testing.assert_allclose(found, 0.25 * 6.0, rtol=0.05)
    assert float(geometry.sharpness(LOSS, PARAMS, jax.random.key(0), 0.0, scale)) == 0.0
    with pytest.raises(ValueError, match="num_samples"):
        geometry.sharpness(LOSS, PARAMS, jax.random.key(0), 0.1, scale, num_samples=0)


def test_one_call_after_the_other_gives_what_a_loop_gives():
    scale, first = geometry.filter_wise(LAYOUTS), geometry.random_direction(PARAMS, jax.random.key(1), LAYOUTS)
    offsets, loss = jnp.array([-1.0, 0.0, 0.5]), jax.jit(LOSS)
    for measure in (
        lambda **how: geometry.sharpness(loss, PARAMS, jax.random.key(0), 0.5, scale, **how),
        lambda **how: geometry.slice_1d(loss, PARAMS, first, offsets, **how),
        lambda **how: geometry.slice_2d(loss, PARAMS, (first, PARAMS), offsets, **how),
    ):
        calls = []
        counted = lambda f, values, calls=calls: (calls.append(len(values)), geometry.one_by_one(f, values))[1]
        np.testing.assert_allclose(measure(in_turn=counted), measure(), rtol=1e-5)
        assert calls


def test_directions_have_the_norms_of_the_filters():
    direction = geometry.random_direction(PARAMS, jax.random.key(1), LAYOUTS)
    np.testing.assert_allclose(
        jnp.linalg.norm(direction["a"]["kernel"], axis=0), jnp.linalg.norm(PARAMS["a"]["kernel"], axis=0), rtol=1e-5
    )
    np.testing.assert_array_equal(direction["a"]["bias"], 0.0)


def test_slices_are_the_loss_on_the_plane():
    first, second = (geometry.random_direction(PARAMS, jax.random.key(i), LAYOUTS) for i in (1, 2))
    offsets = jnp.array([-1.0, 0.0, 0.5])
    plane = geometry.slice_2d(LOSS, PARAMS, (first, second), offsets)
    assert plane.shape == (3, 3)
    at = jax.tree.map(lambda p, a, b: p + 0.5 * a - 1.0 * b, PARAMS, first, second)
    np.testing.assert_allclose(plane[2, 0], LOSS(at), rtol=1e-6)
    np.testing.assert_allclose(plane[1], geometry.slice_1d(LOSS, PARAMS, second, offsets), rtol=1e-6)
    np.testing.assert_allclose(plane[1, 1], LOSS(PARAMS), rtol=1e-6)
