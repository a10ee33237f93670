"""Where activations lie on a mesh: names of their dimensions in the models, axes of the mesh in the training step."""

import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array


def constrain(x: Array, *names: str) -> Array:
    """Lay an activation out by the names of its dimensions; what it computes is unchanged.

    The names' mesh axes come from the `flax.linen.logical_axis_rules` in force when the program is traced, the mesh from
    jax's own context; without either this does nothing. A dimension that does not divide by its axes stays whole.

    Example:
        >>> import jax.numpy as jnp
        >>> constrain(jnp.ones((2, 3)), "rows", "width").shape
        (2, 3)
    """
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    if mesh.empty or not rules:
        return x
    axes = [rules.get(name) or () for name in names]
    fits = [extent % math.prod(mesh.shape[axis] for axis in each) == 0 for extent, each in zip(x.shape, axes)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[each if fit else None for each, fit in zip(axes, fits)]))
