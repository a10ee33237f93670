"""Weights of the rows in gradient ascent: rows still remembered first, forgotten rows no more."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike


def adaptive_coefficients(
    losses: Float[Array, " B"], exponent: ScalarLike, floor: ScalarLike = 1e-3, axis_name: str | None = None
) -> Float[Array, " B"]:
    """w_i ∝ max(ℓ_i, floor)^(−exponent), summing to 1, detached.

    A row of low loss is still remembered and gets more weight; one already forgotten gets less, so ascent does not run away.

    Without a floor one row whose float32 loss is exactly 0 (a margin above about 16) takes all the weight with a gradient of
    0, and nothing is forgotten whatever the step. The floor prevents it; `floor=0` is the published formula
    1/(ℓ^λ + 1e-15). Watch `effective_sample_size`.

    Args:
      losses: one non-negative loss a row. On an array sharded over devices the sum is over the whole batch (jit).
      exponent: λ ≥ 0; 0 gives 1/B.
      floor: losses below it count as it.
      axis_name: inside shard_map or pmap, the axis that the batch is split over.

    Raises:
      ValueError: exponent or floor is negative or NaN, or losses are not one a row.

    Source: Huang et al. 2024, ε̃ (normalised over the batch).

    Example:
      >>> adaptive_coefficients(jnp.array([1.0, 4.0]), exponent=0.5)
      Array([0.6666667 , 0.33333334], dtype=float32)
    """
    for name, value in (("exponent", exponent), ("floor", floor)):
        if not isinstance(value, jax.core.Tracer) and not np.asarray(value) >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0.")
    if jnp.ndim(losses) != 1:
        raise ValueError(f"losses has shape {jnp.shape(losses)}; expected one loss a row, shape [B].")
    losses = jax.lax.stop_gradient(losses).astype(jnp.promote_types(losses.dtype, jnp.float32))
    tiny = jnp.asarray(1e-15, losses.dtype)
    raw = 1 / jnp.where(floor > 0, jnp.maximum(losses, floor) ** exponent, losses**exponent + tiny)
    total = jnp.sum(raw) if axis_name is None else jax.lax.psum(jnp.sum(raw), axis_name)
    return raw / total


def effective_sample_size(coefficients: Float[Array, " B"]) -> Float[Array, ""]:
    """(Σw)²/Σw²: between 1 (one row decides) and B (all count the same).

    Example:
      >>> float(effective_sample_size(jnp.array([0.5, 0.5, 0.0])))
      2.0
    """
    return jnp.sum(coefficients) ** 2 / jnp.sum(coefficients**2)
