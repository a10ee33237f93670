"""Sharpness-aware baselines: SAM on the factors, and SAM on the merged kernels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from clujax.geometry.paths import named, replaced
from clujax.geometry.perturb import scalar_value_and_grad, step_key
from clujax.lora.adapters import Adapters, merge
from clujax.lora.rules import Spec
from clujax.lora.steps import LoraState


def lora_sam(optimizer: optax.GradientTransformation, rho: float) -> optax.GradientTransformationExtraArgs:
    """SAM on the factors, for `make_step`: the gradient at the ascent step of length ρ over all adapters together.

    Cost: two gradients a step.
    Source: Foret et al. 2021; Li et al. 2025, eq. 2.
    """
    _check(rho)
    # optax.contrib.normalize divides by the norm as it is: at a gradient of zero the adapters would become NaN.
    unit = lambda slope, params: jax.tree.map(lambda g: g / (optax.tree.norm(slope) + 1e-12), slope)
    ascent = optax.chain(optax.stateless(unit), optax.sgd(rho))
    return optax.contrib.sam(optimizer, ascent, opaque_mode=True, reset_state=False)


def make_merged_sam_step(
    loss_fn: Callable[[PyTree, Any, PRNGKeyArray], tuple[Array, dict]],
    spec: Spec,
    optimizer: optax.GradientTransformation,
    rho: float,
    *,
    donate: bool = True,
) -> Callable[[LoraState, PyTree, Any], tuple[LoraState, dict]]:
    """SAM on the merged kernels: the gradient of the factors at W' + ρ·G/‖G‖, G over all adapted kernels.

    Arguments and result as `make_step`.

    Raises:
      ValueError: ρ is below 0 or no number.

    Cost: two gradients a step and one copy of the adapted kernels.
    Source: Li et al. 2025, eq. 5.
    """
    _check(rho)
    optimizer = optax.with_extra_args_support(optimizer)
    value_and_grad = scalar_value_and_grad(lambda a, place, batch, key: loss_fn(place(a), batch, key), has_aux=True)

    def call(state: LoraState, base: PyTree, batch: Any) -> tuple[LoraState, dict]:
        key = jax.random.fold_in(step_key(state.key, state.step), 1)
        merged = merge(base, state.adapters, spec)
        kernels = {name: leaf for name, leaf in named(merged).items() if name in spec.layouts}
        slope = jax.grad(lambda k: loss_fn(replaced(merged, k), batch, key)[0])(kernels)
        step = jax.tree.map(lambda g: rho * g / (optax.tree.norm(slope) + 1e-12), slope)

        def there(adapters: Adapters) -> PyTree:
            tree = merge(base, adapters, spec)
            at = named(tree)
            return replaced(tree, {name: (at[name] + more).astype(at[name].dtype) for name, more in step.items()})

        (loss, told), found = value_and_grad(state.adapters, there, batch, key)
        updates, opt_state = optimizer.update(found, state.opt_state, state.adapters)
        size = optax.tree.norm(found)
        metrics = told | {"loss": loss, "grad_norm": size, "finite": jnp.isfinite(loss) & jnp.isfinite(size)}
        return LoraState(optax.apply_updates(state.adapters, updates), opt_state, state.step + 1, state.key), metrics

    jitted = jax.jit(call, donate_argnums=(0,) if donate else ())

    def step(state: LoraState, base: PyTree, batch: Any) -> tuple[LoraState, dict]:
        return jitted(state, base, batch)

    step.jitted, step.call, step.optimizer = jitted, call, optimizer
    return step


def _check(rho: float) -> None:
    if not rho >= 0:
        raise ValueError(f"rho is {rho}; expected a number of at least 0.")
