"""What merging costs in digits: errors of the cast, of low-precision arithmetic, and rounding without a bias.

A quantised base is merged through its dequantised tree, `merge(dequantise(base), adapters, spec)`, with a spec built for that
tree; the stored integers stay as they are, and a step of training may dequantise inside the loss.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from clujax.geometry import lowrank
from clujax.geometry.paths import named, replaced
from clujax.geometry.perturb import leaf_key, std_of
from clujax.lora.adapters import Adapters, check, check_shapes, effective
from clujax.lora.rules import Adapted, Spec


class MergeError(NamedTuple):
    """Relative errors ‖found − W'‖ / ‖W'‖ of one merged kernel, W' = W + s·a·b in float32.

    Attributes:
      cast: W' cast once to the leaf's dtype: what `merge` gives.
      native: W + s·a·b computed in the leaf's dtype throughout, as by libraries that merge in place.
      update: ‖W' − W‖ / ‖W'‖, to hold the others against: a cast error above it has rounded the adapter away.
    """

    cast: Float[Array, ""]
    native: Float[Array, ""]
    update: Float[Array, ""]


def merge_error(base: PyTree, adapters: Adapters, spec: Spec) -> dict[str, MergeError]:
    """How exactly each merged kernel can be stored in the base's dtype, by path.

    Raises:
      ValueError: adapters or a base that do not fit the spec.
    """
    check(adapters, spec)
    check_shapes(base, spec)
    leaves, found = named(base), {}
    for entry in spec:
        kernel, adapter = jnp.asarray(leaves[entry.name]), adapters[entry.name]
        exact = effective(kernel, adapter, entry)
        size = jnp.linalg.norm(exact.ravel())
        share = lambda other, exact=exact, size=size: (
            _norm(other.astype(exact.dtype) - exact) / jnp.where(size, size, 1)
        )
        found[entry.name] = MergeError(
            share(exact.astype(kernel.dtype)), share(_native(kernel, adapter, entry)), share(kernel)
        )
    return found


def merge_stochastically(key: PRNGKeyArray, base: PyTree, adapters: Adapters, spec: Spec) -> PyTree:
    """`merge` with each entry rounded up or down at random, so that the mean over keys is W + s·a·b exactly.

    Small updates, which a cast to bfloat16 loses whole, survive on average. Draws depend on (key, path) alone.

    Raises:
      ValueError: adapters or a base that do not fit the spec.
    """
    check(adapters, spec)
    check_shapes(base, spec)
    leaves = named(base)
    return replaced(
        base,
        {
            entry.name: round_stochastically(
                leaf_key(key, entry.name),
                effective(leaves[entry.name], adapters[entry.name], entry),
                jnp.asarray(leaves[entry.name]).dtype,
            )
            for entry in spec
        },
    )


def round_stochastically(key: PRNGKeyArray, values: Float[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """One of the two neighbours in `dtype`, the nearer one more often, with the value as the mean.

    Values that the dtype holds stay; those beyond its largest number are cast.

    Example:
      >>> draws = round_stochastically(jax.random.key(0), jnp.full(10000, 1 + 2.0**-10), jnp.bfloat16)
      >>> sorted(set(draws.tolist())), bool(abs(draws.astype(jnp.float32).mean() - 1 - 2.0**-10) < 1e-4)
      ([1.0, 1.0078125], True)
    """
    near = values.astype(dtype)
    rest = values - near.astype(values.dtype)
    beyond = jnp.where(rest > 0, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.where(rest == 0, near, jnp.nextafter(near, beyond))
    gap = jnp.abs(other.astype(values.dtype) - near.astype(values.dtype))
    chance = jnp.where(gap > 0, jnp.abs(rest) / jnp.where(gap > 0, gap, 1), 0)
    up = (jax.random.uniform(key, values.shape, values.dtype) < chance) & jnp.isfinite(other)
    return jnp.where(up, other, near)


def _native(kernel: Array, adapter: Mapping[str, Array], entry: Adapted) -> Array:
    """`effective` with every result rounded to the kernel's dtype."""
    low = {part: value.astype(kernel.dtype) for part, value in adapter.items()}
    moved = kernel + lowrank.delta(low["a"], low["b"], entry.scale, entry.layout).astype(kernel.dtype)
    if not entry.magnitude:
        return moved
    size = std_of(lowrank.filter_sq_norms(moved, entry.layout), 1).astype(kernel.dtype)
    return low["magnitude"] * moved / jnp.where(size > 0, size, 1)


def _norm(values: Array) -> Float[Array, ""]:
    return jnp.linalg.norm(values.ravel())
