"""Masks over parameters from gradient statistics."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def ratio_mask(forget: PyTree, remain: PyTree, threshold: float, eps: float = 1e-15) -> PyTree:
    """The balanced mask: weights with (F_forget + ε)/(F_remain + ε) ≥ threshold.

    Balanced against the remaining rows rather than a quantile, so its density follows the data. A weight dead on both sides
    has ratio 1: kept for a threshold of at most 1.

    Args:
      forget, remain: importances, for example two Fisher diagonals, trees of one structure.
      threshold: γ ≥ 0; 0 keeps all.

    Returns:
      A tree of booleans.

    Raises:
      ValueError: threshold is negative or NaN.

    Source: SFR-on, Huang et al. 2024.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; expected a number of at least 0.")
    return jax.tree.map(lambda f, r: (f + eps) / (r + eps) >= threshold, forget, remain)


def top_fraction_mask(scores: PyTree, fraction: float, scope: Literal["global", "leaf"] = "global") -> PyTree:
    """Exactly ⌊fraction·P⌋ largest scores, over all leaves together or within each leaf; the first of equals wins.

    Scores of different float types are compared as the widest. Cost: 32 passes over the scores, one more array of their size.

    Raises:
      ValueError: fraction is not in (0, 1], or scope is unknown.

    Source: SalUn, Fan et al. 2024 (scope "global").

    Example:
      >>> top_fraction_mask({"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 0.0])}, 0.5)
      {'a': Array([ True, False], dtype=bool), 'b': Array([ True, False], dtype=bool)}
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a number in (0, 1].")
    if scope not in ("global", "leaf"):
        raise ValueError(f"scope is {scope!r}; expected 'global' or 'leaf'.")
    if scope == "leaf":
        return jax.tree.map(lambda leaf: _top([leaf], fraction)[0], scores)
    leaves, structure = jax.tree.flatten(scores)
    return jax.tree.unflatten(structure, _top(leaves, fraction))


def _top(leaves: list, fraction: float) -> list:
    """Masks of the largest ⌊fraction·P⌋ of all leaves together."""
    size = sum(leaf.size for leaf in leaves)
    # of the decimal as it is written: 0.29 of 100 is 29, though in binary a little less
    count = math.floor(round(fraction * size, 6))
    return _largest([jnp.asarray(leaf) for leaf in leaves], jnp.uint32(count))


@jax.jit
def _largest(leaves: list, count: jax.Array) -> list:
    # Bisects the bits of the count-th largest score: no sort, no concatenation, sharded leaves stay where they are.
    kind = jnp.result_type(jnp.float32, *leaves)
    ranked = [_ordered(leaf.astype(kind)) for leaf in leaves]
    bits = ranked[0].dtype.itemsize * 8

    def total(flags):
        return sum(jnp.sum(flag, dtype=jnp.uint32) for flag in flags)

    def settle(i, cut):
        higher = cut | (jnp.ones((), cut.dtype) << (bits - 1 - i).astype(cut.dtype))
        return jnp.where(total([rank >= higher for rank in ranked]) >= count, higher, cut)

    cut = jax.lax.fori_loop(0, bits, settle, jnp.zeros((), ranked[0].dtype))
    places, masks = count - total([rank > cut for rank in ranked]), []
    for rank in ranked:
        equal = (rank == cut).ravel()
        kept = equal & (jnp.cumsum(equal, dtype=jnp.uint32) <= places)
        masks.append((rank > cut) | kept.reshape(rank.shape))
        places = places - jnp.sum(kept, dtype=jnp.uint32)
    return masks


def _ordered(leaf: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the scores; −0 equals 0, NaN is the lowest."""
    plain = jnp.where(jnp.isnan(leaf), -jnp.inf, jnp.where(leaf == 0, 0.0, leaf))
    unsigned = jnp.uint64 if leaf.dtype == jnp.float64 else jnp.uint32
    raw = jax.lax.bitcast_convert_type(plain, unsigned)
    top = jnp.ones((), unsigned) << (raw.dtype.itemsize * 8 - 1)
    return jnp.where(raw >= top, ~raw, raw | top)


def density(mask: PyTree) -> dict[str, float]:
    """Share of kept weights, per leaf by path and over all as `"total"`."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    kept = {jax.tree_util.keystr(path, simple=True, separator="/"): int(jnp.sum(leaf)) for path, leaf in leaves}
    size = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}
    shares = {name: kept[name] / max(size[name], 1) for name in kept}
    return shares | {"total": sum(kept.values()) / max(sum(size.values()), 1)}


def check_mask(mask: PyTree, params: PyTree) -> None:
    """Refuse a mask that does not fit the parameters, or that keeps nothing.

    Raises:
      ValueError: naming the leaf, what came and what was expected.
    """
    if jax.tree.structure(mask) != jax.tree.structure(params):
        theirs = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mask)}
        ours = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
        raise ValueError(
            f"the mask has another structure than the parameters: missing {sorted(ours - theirs)[:5]}, extra"
            f" {sorted(theirs - ours)[:5]}."
        )
    for (path, kept), leaf in zip(jax.tree_util.tree_leaves_with_path(mask), jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path)
        if jnp.shape(kept) != jnp.shape(leaf):
            raise ValueError(f"the mask of {name} has shape {jnp.shape(kept)}; the parameter has {jnp.shape(leaf)}.")
        if jnp.asarray(kept).dtype != bool:
            raise ValueError(f"the mask of {name} has dtype {jnp.asarray(kept).dtype}; expected bool.")
    leaves = jax.tree.leaves(mask)
    # numpy, so that a concrete mask can be read while something else is being traced
    known = not any(
        isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True) for leaf in leaves
    )
    if known and not any(np.any(np.asarray(leaf)) for leaf in leaves):
        raise ValueError(
            "the mask keeps no weight: nothing would be unlearned. Lower the threshold or raise the fraction."
        )
