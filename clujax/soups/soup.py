"""What every method gives: one model, and the mixing weights that it is made by."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from clujax.geometry.mixing import Groups
from clujax.soups.directions import mean_of
from clujax.soups.pools import Pool, load_checked


class Soup(NamedTuple):
    """One model made of K.

    Attributes:
        params: in the dtypes of the pool.
        weights: mixing weights w [K, L]; every column sums to 1.
        groups: which leaves column l is about.
        history: a record per block, candidate or step of the method.
    """

    params: PyTree
    weights: Float[np.ndarray, "K L"]
    groups: Groups
    history: list[dict]


def dtypes_of(pool: Pool) -> tuple:
    """Dtypes of a model's leaves, in order."""
    return tuple(each.dtype for each in jax.tree.leaves(pool.struct))


def as_model(theta: PyTree, dtypes: tuple) -> PyTree:
    """A point in the dtypes of the pool's models."""
    leaves, structure = jax.tree.flatten(theta)
    return structure.unflatten([jnp.asarray(leaf).astype(kind) for leaf, kind in zip(leaves, dtypes, strict=True)])


def streamed(pool: Pool, weights: Float[np.ndarray, "K L"], groups: Groups) -> PyTree:
    """θ^l = Σ_k w_k^l·θ_k^l in float32 or wider, over the models that have any weight, one at a time."""
    chosen, constants = [k for k in range(len(pool)) if np.any(weights[k])], {}
    models = (load_checked(pool, k, constants) for k in chosen)
    return mean_of(models, weights[chosen].astype(np.float32), groups, pool.struct)
