"""Directions D_k = θ_k − c of a block of models, filled row by row, and how their lengths are set."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from clujax.geometry.mixing import Groups, accumulate, group_norms, mix, project, scaled, wide, zeros_wide

Normalize = Callable[[Float[Array | np.ndarray, "b L"], Bool[Array, "b L"]], Float[Array | np.ndarray, "b L"]]
DEGENERATE = 1e-6  # of the model's norm: a direction as short as this is rounding


def unit(norms: Float[Array | np.ndarray, "b L"], alive: Bool[Array, "b L"]) -> Float[Array | np.ndarray, "b L"]:
    """Directions of length 1, as in the official script: a coefficient is a distance in weight space."""
    return 1 / jnp.where(alive, norms, 1.0)


def mean_norm(norms: Float[Array | np.ndarray, "b L"], alive: Bool[Array, "b L"]) -> Float[Array | np.ndarray, "b L"]:
    """Directions of the mean length of the group's: free of the model's scale."""
    mean = jnp.sum(jnp.where(alive, norms, 0), 0) / jnp.maximum(jnp.sum(alive, 0), 1)
    return mean / jnp.where(alive, norms, 1.0)


def raw(norms: Float[Array | np.ndarray, "b L"], alive: Bool[Array, "b L"]) -> Float[Array | np.ndarray, "b L"]:
    """Directions as they are: a coefficient is a mixing weight."""
    return jnp.ones_like(norms)


class Span(NamedTuple):
    """An affine subspace in some representation of its directions.

    Attributes:
        mix: `mix(center, directions, x) -> θ`.
        project: `project(gradient, directions) -> [b, L]`.
    """

    mix: Callable[[PyTree, Any, Float[Array | np.ndarray, "b L"]], PyTree]
    project: Callable[[PyTree, Any], Float[Array | np.ndarray, "b L"]]


@functools.cache
def dense(groups: Groups) -> Span:
    """Directions as whole trees with a leading axis."""
    return Span(
        lambda center, directions, x: mix(center, directions, x, groups),
        lambda gradient, directions: project(gradient, directions, groups),
    )


def block_directions(
    center: PyTree,
    models: Iterable[PyTree],
    count: int,
    groups: Groups,
    normalize: Normalize = unit,
    *,
    dtype: Any = None,
    layout: NamedSharding | None = None,
    rel_eps: float = DEGENERATE,
) -> tuple[PyTree, Float[Array | np.ndarray, "b L"]]:
    """Directions of a block from its models, one at a time on the device: at most (count + 1) trees beside the center.

    Args:
        center: float32 or wider.
        models: at most `count`; rows without a model are zero.
        count: rows b.
        groups: one number per leaf.
        normalize: sets lengths from norms.
        dtype: of the directions; None for the center's (float32).
        layout: places the leading axis on a mesh.
        rel_eps: a direction at most this share of its model's norm counts as zero.

    Returns:
        Directions `P [b, ...]` and `scale [b, L]` with P = scale·(θ_k − c), so that a step x is the mixing weight x·scale;
        both are zero for degenerate directions, frozen groups and empty rows.
    """
    stack = _rows(center, count, groups, dtype, layout)
    sizes = jnp.zeros((count, len(groups.names)))
    for row, model in enumerate(models):
        stack, sizes = _set_row(stack, sizes, row, model, center, groups, layout)
    return _finish(stack, sizes, rel_eps, groups, normalize, layout)


def mean_of(
    models: Iterable[PyTree], weights: Float[Array | np.ndarray, "n L"], groups: Groups, struct: PyTree
) -> PyTree:
    """Σ_k w_k^l·θ_k^l streamed in float32 or wider; one model and the sum are on the device."""
    total = zeros_wide(struct)
    for weight, model in zip(weights, models, strict=True):
        total = _accumulate(total, model, jnp.asarray(weight), groups)
    return total


_accumulate = jax.jit(accumulate, static_argnames="groups", donate_argnums=0)


@functools.partial(jax.jit, static_argnames=("count", "groups", "dtype", "layout"))
def _rows(center, count, groups, dtype, layout):
    leaves, structure = jax.tree.flatten(center)
    # A leaf that does not move keeps a row of no entries, so that the trees stay alike.
    shapes = [(count, *leaf.shape) if groups.moves(i) else (count, 0) for i, leaf in enumerate(leaves)]
    kinds = [dtype or leaf.dtype for leaf in leaves]
    return structure.unflatten([_laid(jnp.zeros(*each), layout) for each in zip(shapes, kinds)])


@functools.partial(jax.jit, static_argnames=("groups", "layout"), donate_argnums=(0, 1))
def _set_row(stack, sizes, row, model, center, groups, layout):
    rows, structure = jax.tree.flatten(stack)
    leaves, origin = structure.flatten_up_to(model), structure.flatten_up_to(center)

    def one(i, leaf, c, into):
        if not groups.moves(i):
            return into
        return _laid(into.at[row].set((wide(leaf) - c).astype(into.dtype)), layout)

    filled = [one(i, *each) for i, each in enumerate(zip(leaves, origin, rows))]
    norms = group_norms(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], model), groups)[0]
    return structure.unflatten(filled), sizes.at[row].set(norms.astype(sizes.dtype))


@functools.partial(jax.jit, static_argnames=("groups", "normalize", "layout"), donate_argnums=0)
def _finish(stack, sizes, rel_eps, groups, normalize, layout):
    norms = group_norms(stack, groups)
    alive = norms > rel_eps * sizes
    scale = jnp.where(alive, normalize(norms, alive), 0.0)
    return jax.tree.map(lambda leaf: _laid(leaf, layout), scaled(stack, scale, groups)), scale


def _laid(leaf: Array, layout: NamedSharding | None) -> Array:
    return leaf if layout is None else jax.lax.with_sharding_constraint(leaf, layout)
