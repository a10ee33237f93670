"""Influence unlearning: one Newton step away from the forget rows, by the curvature of single remaining rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_choice, check_numbers, edited
from clujax.data import padded
from clujax.unlearning.random_features import dot


def influence(*, scale: float = 1.0, rows: int = 1000, variant: str = "exact") -> Method:
    """θ ← θ + α (I + GᵀG/N)⁻¹ v, with v = Σ_f ∇ℓ / n − (n_f / (n n_r)) Σ_r ∇ℓ.

    G [N, P] holds the gradients of N remaining rows, in eval mode; its Gram matrix [N, N] is all that is factored.

    Args:
      scale: α ≥ 0 (published 1 to 20; users report that 5 to 15 destroy the network).
      rows: N, remaining rows drawn at random; all of them when there are fewer.
      variant: "exact", or "official": the published recursion, which is not the inverse that it is meant to be.

    Cost: a gradient per row of all rows; N·P memory (1,000 rows of 10⁶ weights: 4 GB).
    Source: Izzo et al. 2021 and Jia et al. 2023 (WoodFisher).
    """
    settings = dict(locals())
    check_numbers(settings, least={"scale": 0, "rows": 1})
    check_choice("variant", variant, ("exact", "official"))

    def prepare(request, key):
        wide = lambda leaf: jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
        flat, unravel = ravel_pytree(jax.tree.map(wide, request.params))

        def loss(flat, x, y, weight):
            logits, _ = request.classifier.apply(unravel(flat), request.stats, x, train=False)
            return jnp.sum(weight * cross_entropy(logits, y))

        def one(flat, row):
            return jax.grad(loss)(flat, row["x"][None], row["y"][None], 1.0)

        chosen = np.asarray(jax.random.permutation(key, len(request.remain["y"])))[:rows]
        remaining = {name: jnp.asarray(np.asarray(request.remain[name])[chosen]) for name in "xy"}
        gradients = jax.jit(lambda flat: jax.lax.map(lambda row: one(flat, row), remaining))(flat)
        add = jax.jit(
            lambda total, flat, batch: total + jax.grad(loss)(flat, *(batch[n] for n in ("x", "y", "weight")))
        )

        def summed(part):
            total = jnp.zeros_like(flat)
            for batch in padded({name: part[name] for name in "xy"}, min(500, len(part["y"]))):
                total = add(total, flat, batch)
            return total

        num_forget, num_remain = len(request.forget["y"]), len(request.remain["y"])
        away = (summed(request.forget) - num_forget / num_remain * summed(request.remain)) / (num_forget + num_remain)
        solve = influence_direction if variant == "exact" else official_direction
        return edited(request, unravel(flat + scale * solve(gradients, away)))

    return Method("influence", prepare, settings)


def influence_direction(gradients: Float[Array, "N P"], vector: Float[Array, " P"]) -> Float[Array, " P"]:
    """(I + GᵀG/N)⁻¹ v by the Gram matrix: v − Gᵀ(N I + GGᵀ)⁻¹ G v. Cost: N²P + N³/3."""
    count = len(gradients)
    gram = dot(gradients, gradients.T) + count * jnp.eye(count, dtype=gradients.dtype)
    weights = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), dot(gradients, vector))
    return vector - dot(weights, gradients)


def official_direction(gradients: Float[Array, "N P"], vector: Float[Array, " P"]) -> Float[Array, " P"]:
    """The published recursion, with N = number of rows: o ← g₁; then for each row t = o·g, and k and o lose their parts.

    Sherman–Morrison would need H⁻¹g of each row where this carries one vector o along.
    """
    count = len(gradients)

    def step(carry, gradient):
        o, k = carry
        along = dot(o, gradient)
        k = k - dot(k, gradient) / (count + along) * o
        return (o - along / (count + along) * o, k), None

    (_, k), _ = jax.lax.scan(step, (gradients[0], vector), gradients[1:])
    return k
