"""Preparation and augmentation of images on the device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray


def standardize(mean: ArrayLike | Sequence[float], std: ArrayLike | Sequence[float]) -> Callable[[Array], Array]:
    """`f(images) -> float32`, (x − mean)/std per channel; gray images `[B, H, W]` gain a channel axis."""
    mean, std = jnp.asarray(mean, jnp.float32), jnp.maximum(jnp.asarray(std, jnp.float32), 1e-6)

    def prepare(images):
        images = jnp.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        return (images.astype(jnp.float32) - mean) / std

    return prepare


def crop_flip(key: PRNGKeyArray, images: Array, pad: int = 4) -> Array:
    """Random crops of the zero-padded images and random left-right flips, one draw a row."""
    crop_key, flip_key = jax.random.split(key)
    rows, height, width = images.shape[:3]
    spread = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad)) + ((0, 0),) * (images.ndim - 3))
    corners = jax.random.randint(crop_key, (rows, 2), 0, 2 * pad + 1)
    size = (height, width, *images.shape[3:])

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1]) + (0,) * (image.ndim - 2), size)

    cropped = jax.vmap(crop)(spread, corners)
    flip = jax.random.bernoulli(flip_key, shape=(rows,)).reshape(-1, *[1] * (images.ndim - 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
