"""How flat a minimum is: sharpness under noise, and slices of the loss along filter-normalised random directions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike, Shaped

from clujax.geometry.layouts import Layout
from clujax.geometry.lowrank import filter_sq_norms
from clujax.geometry.paths import named, replaced
from clujax.geometry.perturb import Sampler, Scale, leaf_key, normal, perturb, std_of

Map = Callable[[Callable[[Array], Array], Array], Array]


def one_by_one(function: Callable[[Array], Array], values: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    """`jax.lax.map` without a loop in the program: with a loss that is compiled, a call for each value.

    XLA on CPU runs convolutions within a loop some 40 times slower than outside of one.
    """
    return jnp.stack([function(value) for value in values])


def sharpness(
    loss: Callable[[PyTree], Any],
    params: PyTree,
    key: PRNGKeyArray,
    tau: ScalarLike,
    scale: Scale,
    *,
    num_samples: int = 8,
    sampler: Sampler = normal,
    in_turn: Map = jax.lax.map,
) -> Float[Array, ""]:
    """E_ε L(W + ε) − L(W) with noise of strength τ: the rise of the loss around a point.

    Args:
      loss: `loss(params) -> scalar`, on a fixed set of examples.
      tau, scale, sampler: as in `perturb`.
      in_turn: how the draws are gone through: `jax.lax.map` in one program, or `one_by_one`.

    Raises:
      ValueError: no samples.

    Cost: `num_samples` + 1 evaluations of the loss, no gradient.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1.")
    keys = jax.random.split(key, num_samples)
    rises = in_turn(lambda k: loss(perturb(params, k, tau, scale, sampler=sampler)), keys)
    return jnp.mean(rises) - loss(params)


def random_direction(params: PyTree, key: PRNGKeyArray, layouts: Mapping[str, Layout]) -> PyTree:
    """A Gaussian direction whose every filter has the norm of the parameters' filter; leaves without a layout do not move.

    Source: Li et al. 2018 (filter normalisation), as in Fig. 6 of Li et al. 2025.
    """
    leaves = named(params)

    def drawn(name: str, layout: Layout) -> Array:
        shape = leaves[name].shape
        raw = jax.random.normal(leaf_key(key, name), shape)
        size = lambda kernel: std_of(filter_sq_norms(kernel, layout), 1)
        return raw / size(raw) * size(leaves[name])

    still = {name: jnp.zeros(jnp.shape(leaf)) for name, leaf in leaves.items()}
    return replaced(params, still | {name: drawn(name, layout) for name, layout in layouts.items()})


def slice_1d(
    loss: Callable[[PyTree], Any],
    params: PyTree,
    direction: PyTree,
    offsets: Float[Array, " p"],
    *,
    in_turn: Map = jax.lax.map,
) -> Float[Array, " p"]:
    """Losses at params + t·direction for each offset t. Cost: one evaluation an offset; `in_turn` as in `sharpness`."""
    at = lambda t: jax.tree.map(lambda p, d: (p + t * d).astype(p.dtype), params, direction)
    return in_turn(lambda t: loss(at(t)), offsets)


def slice_2d(
    loss: Callable[[PyTree], Any],
    params: PyTree,
    directions: tuple[PyTree, PyTree],
    offsets: Float[Array, " p"],
    *,
    in_turn: Map = jax.lax.map,
) -> Float[Array, "p p"]:
    """Losses on the grid params + s·first + t·second; row s, column t. Cost: p² evaluations; `in_turn` as in `sharpness`."""
    first, second = directions

    def row(s: Array) -> Array:
        moved = jax.tree.map(lambda p, d: (p + s * d).astype(p.dtype), params, first)
        return slice_1d(loss, moved, second, offsets, in_turn=in_turn)

    return in_turn(row, offsets)
