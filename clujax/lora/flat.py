"""Flat-LoRA: adapters trained on the loss expected under noise on the merged kernels, of which nothing is stored.

min over A, B of E_ε L(W + s·a·b + ε), with ε of deviation σ/√n · ‖W'_i‖ for filter i of the merged kernel W' with n inputs.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from clujax.geometry import lowrank
from clujax.geometry.paths import named, replaced
from clujax.geometry.perturb import Sampler, Scale, check_sigma, noise, normal, std_of
from clujax.lora.adapters import Adapters, check, effective, merge
from clujax.lora.rules import Adapted, Spec


def sq_norms(base: PyTree, spec: Spec) -> dict[str, Float[Array, "..."]]:
    """‖W_i‖² of every filter of the base (inputs kept at size 1), float32: constant while the adapters train."""
    leaves = named(base)
    return {entry.name: lowrank.filter_sq_norms(leaves[entry.name], entry.layout) for entry in spec}


def merged_std(
    base: PyTree, adapters: Adapters, spec: Spec, known: Mapping[str, Array] | None = None
) -> dict[str, Float[Array, "..."]]:
    """‖W'_i‖/√n of every filter of the merged kernels, as constants, without forming a merged kernel.

    With DoRA the norm of a filter is its magnitude.

    Args:
      known: `sq_norms(base, spec)`; None computes it here.

    Cost: 2·n·m·r operations a kernel (and 2·n·m without `known`).
    Source: Li et al. 2025, eq. 7 at σ = 1.
    """
    leaves = named(base)
    return {
        entry.name: jax.lax.stop_gradient(
            entry_std(leaves[entry.name], adapters[entry.name], entry, None if known is None else known[entry.name])
        )
        for entry in spec
    }


def constant_std(
    kernel: Array, adapter: Mapping[str, Array], entry: Adapted, known: Array | None = None
) -> Float[Array, "..."]:
    """Deviation 1 everywhere: isotropic noise, to compare with."""
    return jnp.ones((1,) * len(entry.shape))


def entry_std(
    kernel: Array, adapter: Mapping[str, Array], entry: Adapted, known: Array | None = None
) -> Float[Array, "..."]:
    """`merged_std` of one kernel."""
    a, b = adapter["a"], adapter["b"]
    squared = lowrank.merged_filter_sq_norms(kernel, a, b, entry.scale, entry.layout, known)
    if entry.magnitude:
        squared = jnp.where(squared > 0, jnp.square(adapter["magnitude"].astype(squared.dtype)), 0.0)
    return std_of(squared, entry.layout.sizes(entry.shape)[0])


def perturbed(
    base: PyTree,
    adapters: Adapters,
    spec: Spec,
    key: PRNGKeyArray,
    sigma: ScalarLike,
    *,
    sampler: Sampler = normal,
    known: Mapping[str, Array] | None = None,
    extra: Scale | None = None,
    deviation: Callable[..., Array] = entry_std,
    before_norm: bool = False,
) -> PyTree:
    """The merged tree with one draw of noise: W' + σ·std ⊙ Z at the adapted leaves; the base itself is not touched.

    The sum is in float32 and cast once to the leaf's dtype (for a bfloat16 working copy of a float32 base hand in the base in
    float32 and cast the result). Gradients reach a, b and magnitude through W' alone.

    Args:
      key: of this step, `geometry.step_key(root, step)`; leaf by leaf the path is folded in.
      sigma: σ_t; may be traced. The number 0 is `merge`, with no random numbers in the program.
      known: `sq_norms(base, spec)`.
      extra: deviations of further leaves of the merged tree (names of the spec are left out): noise on all parameters.
      deviation: (kernel, adapter, entry, known norms) -> std at σ = 1: `entry_std` (eq. 7) or `constant_std`.
      before_norm: with DoRA, noise of deviation ‖V_i‖/√n goes onto V before it is normalised, as the published code does.

    Raises:
      ValueError: adapters that do not fit, or a strength below 0 or NaN where it can be read.

    Cost: one random number a perturbed weight.
    """
    check_sigma(sigma)
    check(adapters, spec)
    if isinstance(sigma, int | float) and sigma == 0:
        return merge(base, adapters, spec)
    drawn = draws(base, adapters, spec, key, sigma, sampler=sampler, known=known, extra=extra,
                  deviation=deviation, before_norm=before_norm)  # fmt: skip
    return with_draws(base, adapters, spec, drawn, before_norm=before_norm)


def draws(
    base: PyTree,
    adapters: Adapters,
    spec: Spec,
    key: PRNGKeyArray,
    sigma: ScalarLike,
    *,
    sampler: Sampler = normal,
    known: Mapping[str, Array] | None = None,
    extra: Scale | None = None,
    deviation: Callable[..., Array] = entry_std,
    before_norm: bool = False,
) -> dict[str, Float[Array, "..."]]:
    """The noise σ·std ⊙ Z itself by path, float32, as a constant. Arguments as in `perturbed`."""
    leaves = named(base)
    kept = lambda entry: entry._replace(magnitude=entry.magnitude and not before_norm)
    stds = {e.name: deviation(leaves[e.name], adapters[e.name], kept(e), None if known is None else known[e.name])
            for e in spec}  # fmt: skip
    if extra is not None:
        stds |= {name: std for name, std in extra(base).items() if name not in stds}
    drawn = {name: noise(key, name, jnp.shape(leaves[name]), sigma * std, sampler) for name, std in stds.items()}
    return jax.lax.stop_gradient(drawn)


def with_draws(
    base: PyTree, adapters: Adapters, spec: Spec, drawn: Mapping[str, Array], *, before_norm: bool = False
) -> PyTree:
    """The merged tree plus noise by path, summed in float32 and cast once."""
    leaves = named(base)

    def one(name: str) -> Array:
        leaf, entry = jnp.asarray(leaves[name]), next((e for e in spec if e.name == name), None)
        if entry is None:
            moved = leaf + drawn[name]
        elif before_norm and entry.magnitude:
            moved = effective(leaf + drawn[name], adapters[name], entry)
        else:
            moved = effective(leaf, adapters[name], entry) + drawn[name]
        return moved.astype(leaf.dtype)

    return replaced(base, {name: one(name) for name in drawn})


def scan_layers(
    body: Callable[[PyTree, Any], Any],
    carry: Any,
    base: PyTree,
    adapters: Adapters,
    spec: Spec,
    key: PRNGKeyArray,
    sigma: ScalarLike,
    *,
    sampler: Sampler = normal,
    known: Mapping[str, Array] | None = None,
) -> Any:
    """Run `carry = body(params, carry)` through stacked layers, with memory for noise that does not grow with their number.

    Noisy kernels are made layer by layer and again on the way back, instead of living from one to the other.

    Args:
      body: one layer.
      base, adapters: leaves with a leading axis of layers.
      spec: of one layer (no batch axis).
      key: of this step; a layer's noise is that of `fold_in(key, layer)`.
      sigma, sampler: as in `perturbed`; 0 is plain LoRA.
      known: `sq_norms` of each layer, stacked.

    Returns:
      The last carry.

    Cost: two draws of each random number a gradient; memory over plain LoRA of a few buffers of the largest layer.
    """
    check_sigma(sigma)
    count = jax.tree.leaves(base)[0].shape[0]
    known = jax.vmap(lambda layer: sq_norms(layer, spec))(base) if known is None else known

    @functools.partial(jax.checkpoint, policy=_products_of_activations(spec), prevent_cse=False)
    def layer(carry: Any, at: tuple) -> Any:
        here, added, norms, index = at
        drawn = jax.random.fold_in(key, index)
        return body(perturbed(here, added, spec, drawn, sigma, sampler=sampler, known=norms), carry)

    scanned = (base, adapters, known, jnp.arange(count))
    return jax.lax.scan(lambda c, at: (layer(c, at), None), carry, scanned)[0]


def _products_of_activations(spec: Spec) -> Callable[..., bool]:
    """What a layer keeps for its way back: its own products, but neither noise nor a·b, which is as large as a kernel."""
    sizes = {(entry.rank, math.prod(entry.shape)) for entry in spec}

    def saveable(primitive: Any, *operands: Any, **params: Any) -> bool:
        if primitive.name != "dot_general":
            return False
        (contracted, _), (batch, _) = params["dimension_numbers"]
        left, right = operands[:2]
        inside = math.prod(left.shape[i] for i in contracted)
        result = left.size * right.size // (inside**2 * math.prod(left.shape[i] for i in batch))
        return (inside, result) not in sizes

    return saveable
