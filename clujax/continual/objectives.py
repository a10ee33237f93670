"""What a learn batch is weighed by: `objective(logits [B, C], labels [B], progress) -> (scalar to minimise, metrics)`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from clujax.adaptation.losses import cross_entropy
from clujax.transforms import adaptive_coefficients

Logits, Labels, Progress = Float[Array, "B C"], Integer[Array, " B"], Float[Any, ""] | float


def plain_learning() -> Callable:
    """Mean cross-entropy."""

    def objective(logits: Logits, labels: Labels, progress: Progress):
        loss = jnp.mean(cross_entropy(logits, labels))
        return loss, {"learn_loss": loss}

    return objective


def adaptive_learning(exponent: float = 0.5, floor: float = 1e-3) -> Callable:
    """Mean of (1 − ε_i) ℓ_i with ε_i ∝ max(ℓ_i, floor)^(−exponent), of mean `progress`, cut to [0, 1], detached.

    Theory pushes along the gradient of the learn rows that are not yet part of the optimum, 1 − ε: at the beginning (progress
    0) all rows count in full, at the end those that are learned by then no more.
    """
    _check(exponent=exponent, floor=floor)

    def objective(logits: Logits, labels: Labels, progress: Progress):
        losses = cross_entropy(logits, labels)
        share = adaptive_coefficients(losses, exponent, floor=floor) * len(losses) * progress
        return jnp.mean((1 - jnp.clip(share, 0, 1)) * losses), {"learn_loss": jnp.mean(losses)}

    return objective


def focal_learning(exponent: float = 0.5) -> Callable:
    """Σ_i w_i ℓ_i with w_i ∝ ℓ_i^exponent, summing to 1, detached: rows not yet learned count more."""
    _check(exponent=exponent)

    def objective(logits: Logits, labels: Labels, progress: Progress):
        losses = cross_entropy(logits, labels)
        weights = jax.lax.stop_gradient(losses) ** exponent
        return jnp.sum(weights / jnp.maximum(jnp.sum(weights), 1e-12) * losses), {"learn_loss": jnp.mean(losses)}

    return objective


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0.")
