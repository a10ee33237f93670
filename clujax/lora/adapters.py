"""Adapters on any tree of parameters: begin, merge, take out again. All functions are pure; the base is never changed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from clujax.geometry import lowrank
from clujax.geometry.paths import named, replaced, shown
from clujax.geometry.perturb import leaf_key, std_of
from clujax.lora.rules import Adapted, Spec

Adapters = dict[str, dict[str, Array]]


def init(key: PRNGKeyArray, base: PyTree, spec: Spec, gradients: PyTree | None = None) -> tuple[Adapters, PyTree]:
    """Adapters as they begin, and the base that goes with them.

    The base is handed back as it is, but for initialisations that move a part of W into the adapters (PiSSA, OLoRA, LoRA-GA),
    where those leaves become W − s·a·b. Draws depend on (key, path) alone.

    Args:
      base: parameters; leaves of the spec finite.
      gradients: the loss's gradient at the base, for initialisations that need it (LoRA-GA).

    Returns:
      `{path: {"a": [*B, *I, r], "b": [*B, r, *O]}}` in the rule's dtype, with DoRA also "magnitude" (inputs kept at size
      1), and the base.

    Raises:
      ValueError: a leaf is not finite or its shape is not the spec's, or gradients are missing.
    """
    check_shapes(base, spec)
    leaves, slopes = named(base), None if gradients is None else named(gradients)
    adapters, moved = {}, {}
    for entry in spec:
        kernel = jnp.asarray(leaves[entry.name])
        if _known_not_finite(kernel):
            raise ValueError(f"{entry.name!r} has NaN or Inf; start from a finite network.")
        if entry.init.needs_gradient and slopes is None:
            raise ValueError(f"the initialisation {entry.init.name} of {entry.name!r} needs gradients= at the base.")
        slope = lowrank.to_matrix(_wide(slopes[entry.name]), entry.layout) if entry.init.needs_gradient else None
        a, b = entry.init.factors(
            leaf_key(key, entry.name), lowrank.to_matrix(_wide(kernel), entry.layout), entry.rank, entry.scale, slope
        )
        shapes = lowrank.factor_shapes(entry.shape, entry.rank, entry.layout)
        a, b = (factor.reshape(shape).astype(entry.dtype) for factor, shape in zip((a, b), shapes))
        adapters[entry.name] = {"a": a, "b": b}
        if entry.magnitude:
            size = std_of(lowrank.filter_sq_norms(kernel, entry.layout), 1)
            adapters[entry.name]["magnitude"] = size.astype(entry.dtype)
        if entry.init.shifts_base:
            moved[entry.name] = (_wide(kernel) - lowrank.delta(a, b, entry.scale, entry.layout)).astype(kernel.dtype)
    return adapters, replaced(base, moved)


def merge(base: PyTree, adapters: Adapters, spec: Spec) -> PyTree:
    """The tree of base with W + s·a·b (DoRA: that direction with the trained norms) at the adapted leaves.

    Computed in float32 and cast once to each leaf's dtype; other leaves are the very same arrays. Differentiable in both.

    Raises:
      ValueError: adapters that do not fit the spec, or a base of other shapes.
    """
    check(adapters, spec)
    check_shapes(base, spec)
    leaves = named(base)
    return replaced(
        base,
        {
            e.name: effective(leaves[e.name], adapters[e.name], e).astype(jnp.asarray(leaves[e.name]).dtype)
            for e in spec
        },
    )


def unmerge(merged: PyTree, adapters: Adapters, spec: Spec) -> PyTree:
    """Take W + s·a·b apart again: the base, up to the rounding of the merged leaves.

    Raises:
      ValueError: adapters that do not fit, or DoRA, whose norms cannot be undone (keep the base instead).
    """
    check(adapters, spec)
    check_shapes(merged, spec)
    leaves = named(merged)
    if scaled := [entry.name for entry in spec if entry.magnitude]:
        raise ValueError(f"{scaled[0]!r} has a trained magnitude (DoRA), which cannot be taken out; keep the base.")
    return replaced(
        merged,
        {
            name: (_wide(leaves[name]) - step).astype(jnp.asarray(leaves[name]).dtype)
            for name, step in delta(adapters, spec).items()
        },
    )


def delta(adapters: Adapters, spec: Spec) -> dict[str, Float[Array, "..."]]:
    """s·a·b by path, with the kernels' axes, float32."""
    check(adapters, spec)
    return {e.name: lowrank.delta(adapters[e.name]["a"], adapters[e.name]["b"], e.scale, e.layout) for e in spec}


def effective(kernel: Array, adapter: Mapping[str, Array], entry: Adapted) -> Float[Array, "..."]:
    """The float32 kernel that the network sees: W + s·a·b, with DoRA m·V/‖V‖ where V is that sum and ‖V‖ counts as constant.

    Source: Hu et al. 2022; Liu et al. 2024 (DoRA), section 4.3 for the constant norm.
    """
    moved = _wide(kernel) + lowrank.delta(adapter["a"], adapter["b"], entry.scale, entry.layout)
    if not entry.magnitude:
        return moved
    size = jax.lax.stop_gradient(std_of(lowrank.filter_sq_norms(moved, entry.layout), 1))
    return _wide(adapter["magnitude"]) * moved / jnp.where(size > 0, size, 1.0)


def labels(adapters: Adapters) -> dict[str, dict[str, str]]:
    """The name of each part ("a", "b", "magnitude") in its place, as `optax.multi_transform` takes them."""
    return {name: {part: part for part in parts} for name, parts in adapters.items()}


def check(adapters: Adapters, spec: Spec) -> None:
    """Refuse adapters that are not those of the spec.

    Raises:
      ValueError: a path too many or too few, or a factor of another shape; the first five are named.
    """
    wrong = [f"{name} is no adapted leaf" for name in adapters if all(name != entry.name for entry in spec)]
    for entry in spec:
        found = adapters.get(entry.name)
        if found is None:
            wrong.append(f"{entry.name} is missing")
            continue
        shapes = dict(zip("ab", lowrank.factor_shapes(entry.shape, entry.rank, entry.layout)))
        if entry.magnitude:
            shapes["magnitude"] = tuple(1 if i in entry.layout.fan_in else size for i, size in enumerate(entry.shape))
        if set(found) != set(shapes):
            wrong.append(f"{entry.name} has {sorted(found)}, expected {sorted(shapes)}")
            continue
        wrong += [
            f"{entry.name}/{part} has shape {tuple(found[part].shape)}, expected {shape}"
            for part, shape in shapes.items()
            if tuple(found[part].shape) != shape
        ]
    if wrong:
        raise ValueError(f"the adapters do not fit the spec: {'; '.join(wrong[:5])}.")


def check_shapes(tree: PyTree, spec: Spec) -> None:
    """Refuse a tree without the spec's leaves in their shapes.

    Raises:
      ValueError: the first five are named.
    """
    leaves = named(tree)
    wrong = [
        f"{e.name} is {tuple(leaves[e.name].shape) if e.name in leaves else 'missing'}, expected {e.shape}"
        for e in spec
        if e.name not in leaves or tuple(leaves[e.name].shape) != e.shape
    ]
    if wrong:
        raise ValueError(f"the tree does not fit the spec: {'; '.join(wrong[:5])}; it has {shown(leaves)}.")


def _known_not_finite(kernel: Array) -> bool:
    """Whether a kernel that can be looked at has NaN or Inf; one held by a function that is being traced can be too."""
    if isinstance(kernel, jax.core.Tracer):
        return False
    with jax.ensure_compile_time_eval():
        return not bool(jnp.isfinite(kernel).all())


def _wide(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
