"""Combinations of trees group by group: points c + Σ_k x_k·D_k of an affine subspace, inner products with its directions.

Directions are one tree whose leaves have a leading axis over k. A group is a set of leaves with one coefficient per
direction; groups are static, so that one compiled program serves all coefficients. Sums are in float32 or wider.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

KEPT = -1


class Groups(NamedTuple):
    """Which leaves share a coefficient: group names, and the group number of every leaf in the tree's order.

    Attributes:
      names: of the L groups.
      of: a number per leaf; `KEPT` leaves (integers, flags) are not mixed, the center's are taken.
      frozen: groups whose directions count as zero, whatever the coefficients (running statistics).
    """

    names: tuple[str, ...]
    of: tuple[int, ...]
    frozen: tuple[int, ...] = ()

    def moves(self, leaf: int) -> bool:
        """Whether the leaf of this number depends on the coefficients."""
        return self.of[leaf] != KEPT and self.of[leaf] not in self.frozen


def mix(center: PyTree, directions: PyTree, x: Float[Array | np.ndarray, "b L"], groups: Groups) -> PyTree:
    """θ^l = c^l + Σ_k x[k, l]·D_k^l, in the dtypes of the center; 2·b·D operations.

    Args:
      center: the point at x = 0.
      directions: the tree of the center with a leading axis b on every leaf; leaves that do not move are not read.
      x: coefficients by direction and group.
      groups: one number per leaf.

    Example:
      >>> groups = Groups(("a", "b"), (0, 1))
      >>> mix({"a": jnp.ones(2), "b": jnp.zeros(1)}, {"a": jnp.ones((1, 2)), "b": jnp.ones((1, 1))},
      ...     jnp.array([[2.0, -1.0]]), groups)
      {'a': Array([3., 3.], dtype=float32), 'b': Array([-1.], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(center)
    rows = structure.flatten_up_to(directions)

    def one(i, leaf, row):
        if not groups.moves(i):
            return leaf
        leaf, row = jnp.asarray(leaf), wide(row)
        step = jnp.tensordot(x[:, groups.of[i]], row, 1, precision=jax.lax.Precision.HIGHEST)
        return (wide(leaf) + step).astype(leaf.dtype)

    return structure.unflatten([one(i, *pair) for i, pair in enumerate(zip(leaves, rows))])


def project(gradient: PyTree, directions: PyTree, groups: Groups) -> Float[Array | np.ndarray, "b L"]:
    """⟨g^l, D_k^l⟩ for every direction and group: what `mix` turns a gradient in θ into; 2·b·D operations.

    Args:
      gradient: tree of one point; entries of leaves that do not move are not read (float0 is as good).
      directions: as in `mix`.
      groups: one number per leaf.
    """
    structure = jax.tree.structure(gradient)
    leaves, rows = jax.tree.leaves(gradient), structure.flatten_up_to(directions)
    return _by_group([_inner(g, d) if groups.moves(i) else None for i, (g, d) in enumerate(zip(leaves, rows))], groups)


def group_norms(stacked: PyTree, groups: Groups) -> Float[Array | np.ndarray, "b L"]:
    """‖D_k^l‖ of every direction and group; 0 for frozen groups."""
    leaves = jax.tree.leaves(stacked)
    squares = [_squares(leaf) if groups.moves(i) else None for i, leaf in enumerate(leaves)]
    return jnp.sqrt(_by_group(squares, groups))


def scaled(stacked: PyTree, factors: Float[Array | np.ndarray, "b L"], groups: Groups) -> PyTree:
    """Every direction times the factor of its group, in its dtype; a factor 0 gives exact zeros."""
    leaves, structure = jax.tree.flatten(stacked)

    def one(i, leaf):
        if not groups.moves(i):
            return leaf
        factor = factors[:, groups.of[i]].reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(factor != 0, wide(leaf) * factor, 0).astype(leaf.dtype)

    return structure.unflatten([one(i, leaf) for i, leaf in enumerate(leaves)])


def zeros_wide(tree: PyTree) -> PyTree:
    """Zeros to accumulate trees of this form in: float32 or wider; integers keep their dtype."""
    return jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide_dtype(leaf.dtype)), tree)


def accumulate(total: PyTree, tree: PyTree, weights: Float[Array | np.ndarray, " L"], groups: Groups) -> PyTree:
    """total^l + w^l·tree^l, one term of a streamed Σ_k w_k^l·θ_k^l; leaves that are `KEPT` become the tree's."""
    sums, structure = jax.tree.flatten(total)
    leaves = structure.flatten_up_to(tree)
    added = [
        jnp.asarray(leaf) if number == KEPT else term + weights[number] * wide(leaf)
        for number, term, leaf in zip(groups.of, sums, leaves)
    ]
    return structure.unflatten(added)


def wide_dtype(dtype) -> jnp.dtype:
    """Float32 for narrower floats; any other dtype as it is."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype(dtype)


def wide(leaf) -> Array:
    """An array in `wide_dtype`."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(wide_dtype(leaf.dtype))


def _inner(gradient: Array, row: Array) -> Array:
    flat = row.reshape(row.shape[0], -1)
    if flat.dtype.itemsize < 4:  # multiplied and summed in one pass: a dot would first write a float32 copy
        return jnp.sum(wide(flat) * wide(gradient).reshape(-1), axis=1)
    return jnp.matmul(flat, wide(gradient).reshape(-1), precision=jax.lax.Precision.HIGHEST)


def _squares(leaf: Array) -> Array:
    flat = wide(leaf).reshape(leaf.shape[0], -1)
    return jnp.sum(jnp.square(flat), axis=1)


def _by_group(parts: list, groups: Groups) -> Array:
    """Columns per group from one column (or None) per leaf."""
    rows = next((part for part in parts if part is not None), jnp.zeros(0))
    sums = [jnp.zeros_like(rows) for _ in groups.names]
    for number, part in zip(groups.of, parts):
        if part is not None:
            sums[number] = sums[number] + part
    return jnp.stack(sums, axis=-1)
