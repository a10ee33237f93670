"""Linear algebra of parameter trees; sums and products accumulate in float32 or wider, leaves keep their dtype."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar


def combine(trees: Sequence[PyTree], coefficients: Sequence | Array) -> PyTree:
    """Σ_k c_k tree_k, leaf by leaf; integer leaves (counters) are rounded to the nearest.

    Raises:
      ValueError: the number of trees and coefficients differ, or there is none.

    Example:
      >>> combine([{"w": jnp.ones(2)}, {"w": jnp.zeros(2)}], [0.25, 0.75])
      {'w': Array([0.25, 0.25], dtype=float32)}
    """
    if len(trees) == 0 or len(trees) != len(coefficients):
        raise ValueError(
            f"combine needs one coefficient per tree; got {len(trees)} trees, {len(coefficients)} numbers."
        )

    def one(*leaves):
        terms = [_wide(leaf) * coefficients[k] for k, leaf in enumerate(leaves)]
        total, kind = functools.reduce(operator.add, terms), jnp.asarray(leaves[0]).dtype
        return (total if jnp.issubdtype(kind, jnp.inexact) else jnp.round(total)).astype(kind)

    return jax.tree.map(one, *trees)


def lerp(start: PyTree, end: PyTree, t: float | Scalar) -> PyTree:
    """(1 − t)·start + t·end; exact at t = 0 and t = 1 for finite leaves."""
    return combine([start, end], [1 - t, t])


def inner(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Σ over all entries of a·b."""
    products = jax.tree.map(lambda x, y: jnp.sum(_wide(x) * _wide(y)), a, b)
    return functools.reduce(operator.add, jax.tree.leaves(products), jnp.zeros(()))


def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm of all entries together."""
    return jnp.sqrt(inner(tree, tree))


def distance(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Euclidean distance between two trees."""
    return norm(jax.tree.map(lambda x, y: _wide(x) - _wide(y), a, b))


def cosine(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Cosine of the angle between two trees; 0 when either is 0."""
    scale = norm(a) * norm(b)
    return jnp.where(scale > 0, inner(a, b) / jnp.where(scale > 0, scale, 1.0), 0.0)


def _wide(leaf):
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
