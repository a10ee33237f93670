"""Where a sharpness-aware step on (a, b) moves the merged kernel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from clujax.geometry import lowrank
from clujax.lora.adapters import Adapters, check
from clujax.lora.rules import Spec


class Explored(NamedTuple):
    """Frobenius norms of the parts of one kernel's perturbation ε_W = s·(ε_a b + a ε_b + ε_a ε_b).

    Attributes:
      through_a: ‖s·ε_a b‖, c·‖B Bᵀ G‖ at s = 1.
      through_b: ‖s·a ε_b‖, c·‖G Aᵀ A‖ at s = 1: all there is at b = 0, in the row space of A alone.
      both: ‖s·ε_a ε_b‖, c²·‖G Aᵀ Bᵀ G‖ at s = 1.
      total: ‖ε_W‖.
      share: through_b / total; above 0.95 throughout training in the paper's measurement.
    """

    through_a: Float[Array, ""]
    through_b: Float[Array, ""]
    both: Float[Array, ""]
    total: Float[Array, ""]
    share: Float[Array, ""]


def ascent(gradients: Adapters, rho: ScalarLike) -> Adapters:
    """The step of LoRA-SAM: ε = ρ·g/‖g‖ with one norm over all adapters; ε_A = c·BᵀG and ε_B = c·G Aᵀ at s = 1.

    Source: Li et al. 2025 (Flat-LoRA), eq. 2.
    """
    size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda leaf: rho * leaf / (size + 1e-12), gradients)


def explored(adapters: Adapters, gradients: Adapters, spec: Spec, rho: ScalarLike) -> dict[str, Explored]:
    """How LoRA-SAM perturbs the merged kernels, by path, from the gradients of a and b alone.

    Args:
      gradients: of the loss, for the adapters as they are.
      rho: radius of the ascent.

    Raises:
      ValueError: adapters or gradients that do not fit the spec, or a trained magnitude (DoRA), where ε_W is another.

    Cost: r² products of the factors; no kernel-sized array.
    Source: Li et al. 2025 (Flat-LoRA), eq. 3 and appendix B.
    """
    check(adapters, spec)
    check(gradients, spec)
    if scaled := [entry.name for entry in spec if entry.magnitude]:
        raise ValueError(f"{scaled[0]!r} has a trained magnitude (DoRA); the decomposition is that of s·a·b alone.")
    steps, found = ascent(gradients, rho), {}
    for entry in spec:
        here, step = adapters[entry.name], steps[entry.name]
        terms = [(step["a"], here["b"]), (here["a"], step["b"]), (step["a"], step["b"])]
        products = jnp.array(
            [[lowrank.gram(one, two, (entry.scale,) * 2, entry.layout) for two in terms] for one in terms]
        )
        parts, total = jnp.sqrt(jnp.diagonal(products)), jnp.sqrt(jnp.maximum(products.sum(), 0))
        found[entry.name] = Explored(*parts, total, parts[1] / jnp.where(total > 0, total, 1))
    return found
