"""Random Fourier features: an explicit map whose inner products approximate the Gaussian kernel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


class FourierFeatures(NamedTuple):
    """A drawn map; `frequencies` has shape [d, pairs], entries N(0, 1)/scale."""

    frequencies: Float[Array, "d pairs"]


def fourier_features(key: PRNGKeyArray, dim: int, pairs: int, scale: float) -> FourierFeatures:
    """Draw a map of `dim` inputs to 2·pairs features for the kernel exp(−‖x − x'‖² / (2 scale²)).

    Raises:
      ValueError: no features, or a scale that is not positive.

    Source: Rahimi and Recht 2007.
    """
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; expected at least 1.")
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected a positive length.")
    return FourierFeatures(jax.random.normal(key, (dim, pairs)) / scale)


def featurize(features: FourierFeatures, x: Float[Array | np.ndarray, "n d"]) -> Float[Array, "n D"]:
    """√(1/pairs) [cos(xW), sin(xW)]: rows of norm 1 exactly, D = 2·pairs.

    Example:
      >>> drawn = fourier_features(jax.random.key(0), dim=3, pairs=5, scale=1.0)
      >>> bool(jnp.allclose(jnp.linalg.norm(featurize(drawn, jnp.ones((2, 3))), axis=1), 1.0))
      True
    """
    phase = jnp.matmul(jnp.asarray(x), features.frequencies, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1) / jnp.sqrt(features.frequencies.shape[1])


def median_distance(x: Float[Array | np.ndarray, "n d"], key: PRNGKeyArray, pairs: int = 10_000) -> Float[Array, ""]:
    """Median Euclidean distance of random pairs of rows: the usual scale of a kernel when nothing else is known."""
    first, second = jax.random.randint(key, (2, pairs), 0, len(x))
    distance = jnp.linalg.norm(jnp.asarray(x)[first] - jnp.asarray(x)[second], axis=-1)
    return jnp.nanmedian(jnp.where(first != second, distance, jnp.nan))
