"""Where a block's directions start, and what its coefficients do to the mixing weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float


class Reference(NamedTuple):
    """How a soup moves from block to block.

    All keep θ^l = Σ_k w_k^l·θ_k^l with Σ_k w_k^l = 1: a step y along θ_k − r moves w by y·(e_k − w(r)).

    Attributes:
        first: (K, models of the first block) -> the models whose mean is the first soup.
        moves: whether directions start at the current soup; else at that first mean, and coefficients stay from visit to
            visit.
    """

    first: Callable[[int, Sequence[int]], Sequence[int]]
    moves: bool


running = Reference(lambda count, block: block, True)
"""The official script: begin at the mean of the first block, then measure directions from the current soup."""

pool_mean = Reference(lambda count, block: range(count), False)
"""The paper's form: directions from the mean of all models, coefficients that persist over sweeps."""

running_from_mean = Reference(lambda count, block: range(count), True)
"""`running`, begun at the mean of all models: blocks may be of one model."""


def moved(
    weights: Float[np.ndarray, "K L"],
    origin: Float[np.ndarray, "K L"],
    block: Sequence[int],
    change: Float[np.ndarray, "b L"],
) -> Float[np.ndarray, "K L"]:
    """Mixing weights after a step of `change` along θ_k − r, k in the block, where r has the weights `origin`."""
    weights = weights - change.sum(0) * origin
    weights[list(block)] += change
    return weights


def on_simplex(weights: Float[np.ndarray, "K L"], block: Sequence[int]) -> Callable:
    """A map of a block's steps y [b, L] along θ_k − soup to the nearest whose mixing weights are at least 0.

    Projected are the block's weights together with the sum of all others, which keep their proportions
    (`optax.projections.projection_simplex` per group).
    """
    inside = jnp.asarray(weights[list(block)], jnp.float32)
    others = 1 - inside.sum(0)
    project = jax.vmap(optax.projections.projection_simplex, 1, 1)

    @jax.jit
    def constrain(y):
        now = y + (1 - y.sum(0)) * inside
        mass = project(jnp.concatenate([now, 1 - now.sum(0, keepdims=True)]))
        # Without others a step along the soup itself changes nothing; one of sum 0 is taken.
        kept = jnp.where(others > 1e-6, mass[-1] / jnp.where(others > 1e-6, others, 1), 1.0)
        none = jnp.where(others > 1e-6, 0.0, mass[-1] / len(block))
        return mass[:-1] + none - kept * inside

    return constrain
