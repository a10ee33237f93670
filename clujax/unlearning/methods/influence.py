"""Influence unlearning: one Newton step away from the forget rows, by the curvature of single remaining rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from clujax.unlearning.losses import cross_entropy
from clujax.unlearning.method import Method
from clujax.unlearning.plans import check_choice, check_numbers, edited


def influence(*, scale: float = 1.0, rows: int = 1000, variant: str = "exact") -> Method:
    """θ ← θ + α (I + GᵀG/N)⁻¹ v, with v = Σ_f ∇ℓ / n − (n_f / (n n_r)) Σ_r ∇ℓ.

    G [N, P] holds the gradients of N remaining rows; its Gram matrix [N, N] is all that is factored.

    Args:
      scale: α.
      rows: N, remaining rows drawn at random.
      variant: "exact", or "official": the published recursion, which is not the inverse that it is meant to be.

    Cost: a gradient per row of all rows; N·P memory (1,000 rows of 10⁶ weights: 4 GB).
    Source: Izzo et al. 2021 and Jia et al. 2023 (WoodFisher).
    """
    settings = dict(locals())
    check_numbers(settings, least={"rows": 1})
    check_choice("variant", variant, ("exact", "official"))

    def prepare(request, key):
        flat, unravel = ravel_pytree(request.params)
        row_gradient = jax.jit(jax.grad(lambda flat, x, y: _row_loss(request, unravel(flat), x, y)))
        num_forget, num_remain = len(request.forget["y"]), len(request.remain["y"])
        total = num_forget + num_remain
        forget, remain = (_sum_gradient(request, unravel, flat, part) for part in (request.forget, request.remain))
        direction = forget / total - num_forget / (total * num_remain) * remain
        count = min(rows, num_remain)
        chosen = np.asarray(jax.random.permutation(key, num_remain))[:count]
        x, y = (jnp.asarray(np.asarray(request.remain[name])[chosen]) for name in "xy")
        gradients = jax.jit(lambda flat: jax.lax.map(lambda row: row_gradient(flat, *row), (x, y)))(flat)
        solve = influence_direction if variant == "exact" else official_direction
        return edited(request, unravel(flat + scale * solve(gradients, direction)))

    return Method("influence", prepare, settings)


def influence_direction(gradients: Float[Array, "N P"], vector: Float[Array, " P"]) -> Float[Array, " P"]:
    """(I + GᵀG/N)⁻¹ v by the Gram matrix: v − Gᵀ(N I + GGᵀ)⁻¹ G v. Cost: N²P + N³/3."""
    count = len(gradients)
    precision = jax.lax.Precision.HIGHEST
    gram = jnp.matmul(gradients, gradients.T, precision=precision) + count * jnp.eye(count, dtype=gradients.dtype)
    weights = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), gradients @ vector)
    return vector - jnp.matmul(weights, gradients, precision=precision)


def official_direction(gradients: Float[Array, "N P"], vector: Float[Array, " P"]) -> Float[Array, " P"]:
    """The published recursion, with N = number of rows: o ← g₁; then for each row t = o·g, and k and o lose their parts.

    Sherman–Morrison would need H⁻¹g of each row where this carries one vector o along.
    """
    count = len(gradients)

    def step(carry, gradient):
        o, k = carry
        along = o @ gradient
        k = k - (k @ gradient) / (count + along) * o
        return (o - along / (count + along) * o, k), None

    (_, k), _ = jax.lax.scan(step, (gradients[0], vector), gradients[1:])
    return k


def _row_loss(request, params, x, y):
    logits, _ = request.classifier.apply(params, request.stats, x[None], train=False)
    return cross_entropy(logits, y[None])[0]


def _sum_gradient(request, unravel, flat, rows, size=500):
    """Σ over all rows of the gradient, in eval mode."""

    @jax.jit
    def part(flat, x, y):
        logits = lambda flat: request.classifier.apply(unravel(flat), request.stats, x, train=False)[0]
        return jax.grad(lambda flat: jnp.sum(cross_entropy(logits(flat), y)))(flat)

    x, y = np.asarray(rows["x"]), np.asarray(rows["y"])
    return sum(part(flat, x[i : i + size], y[i : i + size]) for i in range(0, len(y), size))
