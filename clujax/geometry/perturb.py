"""Random-perturbation expectations: noise drawn anew from a key, its scale per filter, and losses averaged over it.

Noise is never stored. It is a function of (key, path of the leaf), so taking a leaf away does not change the others' noise,
and with `step_key` resuming needs the root key and the step alone. The draws have the same bits under any sharding.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree, ScalarLike

from clujax.geometry.layouts import Layout
from clujax.geometry.lowrank import filter_sq_norms
from clujax.geometry.paths import named, replaced, shown, stable_hash

Sampler = Callable[[PRNGKeyArray, tuple[int, ...], Any], Array]
Scale = Callable[[PyTree], dict[str, Array]]

normal: Sampler = jax.random.normal
rademacher: Sampler = jax.random.rademacher


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Uniform draws with mean 0 and variance 1."""
    return jax.random.uniform(key, shape, dtype, minval=-math.sqrt(3), maxval=math.sqrt(3))


def only_when(active: ArrayLike, sampler: Sampler) -> Sampler:
    """Draws where `active` (a scalar that may be traced), zeros elsewhere, which then cost nothing.

    Under `vmap` over different values of `active` both sides are computed.
    """

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        drawn = lambda: sampler(key, shape, dtype).astype(dtype)
        return jax.lax.cond(active, drawn, lambda: jnp.zeros(shape, dtype))

    return draw


def step_key(key: PRNGKeyArray, step: ScalarLike) -> PRNGKeyArray:
    """The key of an optimizer step's noise."""
    return jax.random.fold_in(key, step)


def leaf_key(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """The key of a leaf's noise within a step."""
    return jax.random.fold_in(key, stable_hash(name))


def filter_std(kernel: Array, layout: Layout) -> Float[Array, "..."]:
    """‖W_i‖ / √n of every filter i with n inputs (inputs kept at size 1).

    Noise of this deviation changes what a filter gives by the same share whatever its fan-in.

    Source: Li et al. 2025 (Flat-LoRA), eq. 7 at σ = 1.
    """
    return std_of(filter_sq_norms(kernel, layout), layout.sizes(kernel.shape)[0])


def std_of(sq_norms: Float[Array, "..."], fan_in: int) -> Float[Array, "..."]:
    """Deviation from squared filter norms; 0 with a finite (zero) derivative for a filter of zeros."""
    positive = sq_norms > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, sq_norms, 1.0)), 0.0) / math.sqrt(fan_in)


def filter_wise(layouts: Mapping[str, Layout], *, by_fan_in: bool = True) -> Scale:
    """Deviation ‖W_i‖/√n for the leaves with a layout (eq. 7); without `by_fan_in` ‖W_i‖, the rule of its ancestors.

    Source: Li et al. 2025 (Flat-LoRA); Bisla et al. 2022 (without 1/n).
    """

    def scale(params: PyTree) -> dict[str, Array]:
        leaves = named(params)
        if absent := [name for name in layouts if name not in leaves]:
            raise ValueError(f"layouts name {shown(absent)}, which the tree does not have; it has {shown(leaves)}.")
        more = lambda layout, leaf: 1.0 if by_fan_in else math.sqrt(layout.sizes(leaf.shape)[0])
        return {name: filter_std(leaves[name], at) * more(at, leaves[name]) for name, at in layouts.items()}

    return scale


def isotropic(where: Callable[[str, Any], bool] = lambda name, leaf: True) -> Scale:
    """Deviation 1 for every float leaf that `where(name, leaf)` takes."""
    return lambda params: {
        n: jnp.ones((1,) * jnp.ndim(x)) for n, x in named(params).items() if _float(x) and where(n, x)
    }


def vector_norm(where: Callable[[str, Any], bool] = lambda name, leaf: jnp.ndim(leaf) == 1) -> Scale:
    """Deviation ‖w‖ of the whole leaf, the ancestors' rule for biases and norms (Li et al. 2024)."""

    def scale(params: PyTree) -> dict[str, Array]:
        kept = {name: leaf for name, leaf in named(params).items() if _float(leaf) and where(name, leaf)}
        whole = lambda leaf: jnp.sum(jnp.square(_wide(leaf)), keepdims=True)
        return {name: std_of(whole(leaf), 1) for name, leaf in kept.items()}

    return scale


def elementwise(where: Callable[[str, Any], bool] = lambda name, leaf: True) -> Scale:
    """Deviation |w| of every entry of the float leaves that `where` takes: "all layers" of Li et al. 2025, App. C."""
    return lambda params: {n: jnp.abs(_wide(x)) for n, x in named(params).items() if _float(x) and where(n, x)}


def together(*scales: Scale) -> Scale:
    """Several scales as one; where two name a leaf the first one holds."""
    return lambda params: {name: std for scale in reversed(scales) for name, std in scale(params).items()}


def fisher_scaled(scale: Scale, fisher: Mapping[str, Array], eta: float = 0.1) -> Scale:
    """Less noise where the loss is curved: deviation / √(1 + η·F), F from `fisher_update` by path.

    Source: Li et al. 2024 (mARWP), η = 0.1.
    """
    return lambda params: {
        name: std / jnp.sqrt(1 + eta * fisher[name]) if name in fisher else std for name, std in scale(params).items()
    }


def fisher_update(
    fisher: Mapping[str, Array], gradient: PyTree, layouts: Mapping[str, Layout], decay: float = 0.99
) -> dict[str, Array]:
    """F ← β·F + ‖g_i‖² per filter (inputs kept at size 1); start from zeros, or from {}. β = 0.99 (Li et al. 2024)."""
    leaves = named(gradient)
    fresh = {name: filter_sq_norms(leaves[name], layout) for name, layout in layouts.items()}
    return {name: decay * fisher[name] + value if name in fisher else value for name, value in fresh.items()}


def noise(
    key: PRNGKeyArray,
    name: str,
    shape: tuple[int, ...],
    std: Array,
    sampler: Sampler = normal,
    dtype: Any = jnp.float32,
) -> Array:
    """One leaf's noise std ⊙ Z, with Z of mean 0 and variance 1 drawn in `dtype` from (key, name)."""
    return std * sampler(leaf_key(key, name), tuple(shape), dtype)


def perturb(
    params: PyTree,
    key: PRNGKeyArray,
    sigma: ScalarLike,
    scale: Scale,
    *,
    sampler: Sampler = normal,
) -> PyTree:
    """One draw of params + σ·std(params) ⊙ Z. Leaves that the scale does not name are the very same arrays.

    The sum is in float32 and is cast once to the leaf's dtype. The deviation counts as constant: the gradient at the result
    is the gradient at the perturbed point, nothing flows through the norms.

    Args:
      key: typed key; `step_key(root, step)` in a training run.
      sigma: noise strength relative to `scale`; may be traced.
      scale: deviations by path at σ = 1: `filter_wise`, `isotropic`, `elementwise`, `vector_norm`, `together`.
      sampler: draws of mean 0 and variance 1: `normal`, `rademacher`, `uniform`.

    Raises:
      ValueError: σ is negative or NaN (when it can be read), or the scale names an integer leaf.

    Cost: one random number a perturbed weight; no gradient.
    Source: Li et al. 2025 (Flat-LoRA), eq. 7.
    """
    check_sigma(sigma)
    leaves = named(params)
    stds = jax.lax.stop_gradient(scale(params))

    def moved(name: str, std: Array) -> Array:
        leaf = jnp.asarray(leaves[name])
        if not _float(leaf):
            raise ValueError(f"{name!r} has dtype {leaf.dtype}; only float leaves can be perturbed: narrow the scale.")
        return (_wide(leaf) + noise(key, name, leaf.shape, sigma * std, sampler)).astype(leaf.dtype)

    return replaced(params, {name: moved(name, std) for name, std in stds.items()})


def expected_value_and_grad(
    loss: Callable[..., Any],
    scale: Scale,
    *,
    num_samples: int = 1,
    antithetic: bool = False,
    sampler: Sampler = normal,
    has_aux: bool = False,
    batch_size: int | None = None,
) -> Callable[..., tuple[Any, PyTree]]:
    """Monte Carlo value and gradient of E_ε L(W + ε).

    Args:
      loss: `loss(params, *args) -> scalar` (or (scalar, aux) with `has_aux`).
      scale, sampler: as in `perturb`.
      num_samples: gradient evaluations.
      antithetic: each draw is used with both signs, so half as many draws; removes all odd terms of the loss.
      batch_size: draws computed side by side; None is one after another, in the memory of one.

    Returns:
      `f(params, key, sigma, *args) -> (value, grad)`, means over the draws; with `has_aux`, `((value, aux), grad)`. With one
      draw the noise is that of `perturb(params, key, sigma, scale)`; draw i > 0 uses `fold_in(key, i)`.

    Raises:
      ValueError: no samples, an odd number with `antithetic`, or a loss that is not a scalar.

    Cost: `num_samples` gradients.

    Example:
      >>> f = expected_value_and_grad(lambda w: jnp.sum(w["k"] ** 2), isotropic(), num_samples=2, antithetic=True)
      >>> value, gradient = f({"k": jnp.array([1.0, -2.0])}, jax.random.key(0), 0.1)
      >>> gradient["k"].round(4)
      Array([ 2., -4.], dtype=float32)
    """
    if num_samples < 1 or (antithetic and num_samples % 2):
        raise ValueError(
            f"num_samples is {num_samples}; expected at least 1{', and an even number with antithetic' * antithetic}."
        )
    value_and_grad = scalar_value_and_grad(loss, has_aux=has_aux)

    def evaluate(params: PyTree, key: PRNGKeyArray, sigma: ScalarLike, *args: Any) -> tuple[Any, PyTree]:
        check_sigma(sigma)

        def one(draw: Array, sign: Array) -> Any:
            drawn_from = key if num_samples == 1 else _draw_key(key, draw)
            signed = lambda k, shape, dtype: sign.astype(dtype) * sampler(k, shape, dtype)
            return value_and_grad(perturb(params, drawn_from, sigma, scale, sampler=signed), *args)

        if num_samples == 1:
            return one(jnp.zeros((), jnp.int32), jnp.ones(()))
        index = jnp.arange(num_samples)
        draws, signs = (index // 2, 1.0 - 2.0 * (index % 2)) if antithetic else (index, jnp.ones(num_samples))
        found = jax.lax.map(lambda each: one(*each), (draws, signs), batch_size=batch_size)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0).astype(leaf.dtype), found)

    return evaluate


def scalar_value_and_grad(loss: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.value_and_grad` that says in plain words when the loss is no scalar.

    Raises:
      ValueError: at the first call.
    """

    def checked(*args: Any, **named_args: Any) -> Any:
        found = loss(*args, **named_args)
        value = found[0] if options.get("has_aux") else found
        if jnp.shape(value) != ():
            raise ValueError(
                f"the loss has shape {jnp.shape(value)}; expected one number: take the mean over the batch."
            )
        return found

    return jax.value_and_grad(checked, **options)


def check_sigma(sigma: ScalarLike) -> None:
    """Refuse a strength that is negative or NaN where it can be read.

    Raises:
      ValueError: as said.
    """
    if not isinstance(sigma, jax.core.Tracer) and not np.all(np.asarray(sigma) >= 0):
        raise ValueError(f"sigma is {sigma}; expected a number of at least 0.")


def _draw_key(key: PRNGKeyArray, draw: Array) -> PRNGKeyArray:
    """The first draw has the step's own key, so that one sample is the first of many."""
    data = jnp.where(draw == 0, jax.random.key_data(key), jax.random.key_data(jax.random.fold_in(key, draw)))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)


def _wide(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
