"""Training losses of the unlearning methods, as `loss(params, stats, batch, key) -> (scalar, (stats, metrics))`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree

from clujax.adaptation.request import Request, forward
from clujax.transforms import adaptive_coefficients, effective_sample_size

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def descend(request: Request, *, weight: float = 1.0, train: bool = True) -> Callable:
    """Mean cross-entropy on a batch of rows to keep or to learn, times a constant weight."""

    def loss(params, stats, batch, key):
        logits, stats = forward(request, params, stats, batch, key, train=train)
        return weight * jnp.mean(cross_entropy(logits, batch["y"])), (stats, {})

    return loss


def augmented(request: Request, batch: Mapping[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """A batch as the training augmentation shows it, for a student and a teacher who must see the same inputs."""
    return dict(batch) if request.augment is None else batch | {"x": request.augment(key, batch["x"])}


def objective_loss(request: Request, objective: Callable, *, train: bool = True) -> Callable:
    """`batch["weight"]` × `objective(logits, labels, key)`: the weight carries a schedule into a compiled step."""

    def loss(params, stats, batch, key):
        network_key, objective_key = jax.random.split(key)
        logits, stats = forward(request, params, stats, batch, network_key, train=train)
        value, metrics = objective(logits, batch["y"], objective_key)
        return batch["weight"] * value, (stats, metrics)

    return loss


# Forget objectives: objective(logits [B, C], labels [B], key) -> (scalar to minimise, metrics).


def adaptive_ascent(exponent: float = 0.5, floor: float = 1e-3, losses: Callable | None = None) -> Callable:
    """Weighted gradient ascent: −Σ_i w_i ℓ_i with w_i ∝ ℓ_i^(−exponent), detached; exponent 0 is the plain mean.

    Args:
      exponent: λ ≥ 0; a larger one puts more weight on rows that are still remembered.
      floor: losses below it count as the floor; 0 is the published form, which a single loss of exactly 0 disables.
      losses: `losses(logits, labels, key) -> [B]`, non-negative; cross-entropy by default.

    Raises:
      ValueError: exponent or floor is negative or NaN, at once; losses of another shape, when traced.

    Source: SFR-on, Huang et al. 2024, adaptive coefficients ε̃.
    """
    for name, value in (("exponent", exponent), ("floor", floor)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0.")
    per_row = losses or (lambda logits, labels, key: cross_entropy(logits, labels))

    def objective(logits: Float[Array, "B C"], labels: Integer[Array, " B"], key: PRNGKeyArray):
        values = per_row(logits, labels, key)
        if values.shape != labels.shape:
            raise ValueError(f"losses must return one value per row, shape {labels.shape}; got {values.shape}.")
        weights = adaptive_coefficients(values, exponent, floor=floor)
        metrics = {
            "forget_loss": jnp.mean(values),
            "effective_sample_size": effective_sample_size(weights),
            # Weight on rows whose loss is exactly 0 in float32: they push nothing.
            "silent_weight": jnp.sum(jnp.where(values == 0, weights, 0.0)),
        }
        return -jnp.sum(weights * values), metrics

    return objective


def random_relabel(num_classes: int) -> Callable:
    """Descend on a wrong label drawn anew for each row and step (the online form of random labels)."""

    def objective(logits: Float[Array, "B C"], labels: Integer[Array, " B"], key: PRNGKeyArray):
        values = cross_entropy(logits, wrong_labels(key, labels, num_classes))
        return jnp.mean(values), {"forget_loss": jnp.mean(cross_entropy(logits, labels))}

    return objective


def wrong_labels(key: PRNGKeyArray, labels: Integer[Array, " B"], num_classes: int) -> Integer[Array, " B"]:
    """Labels drawn uniformly from the C − 1 wrong ones."""
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a wrong label needs at least 2 classes.")
    # In int32: a sum of small unsigned labels would wrap.
    shift = jax.random.randint(key, labels.shape, 1, num_classes)
    return ((labels.astype(shift.dtype) + shift) % num_classes).astype(labels.dtype)


def any_labels(key: PRNGKeyArray, labels: Integer[Array, " B"], num_classes: int) -> Integer[Array, " B"]:
    """Labels drawn uniformly from all C classes, the true one among them: the law of SalUn's code."""
    return jax.random.randint(key, labels.shape, 0, num_classes).astype(labels.dtype)


def npo_loss(losses: Float[Array, " B"], reference: Float[Array, " B"], strength: float) -> Float[Array, " B"]:
    """−(2/β) log σ(β(ℓ − ℓ_ref)): ascent that fades once a row is less likely than under the reference network.

    Its gradient is that of plain ascent for β → 0, and at ℓ = ℓ_ref for every β.
    Source: Zhang et al. 2024 (negative preference optimisation), with cross-entropy for the sequence loss.
    """
    return -2 / strength * jax.nn.log_sigmoid(strength * (losses - reference))


def sim_npo_loss(losses: Float[Array, " B"], strength: float, margin: float = 0.0) -> Float[Array, " B"]:
    """−(2/β) log σ(β(ℓ − δ)): the same without a reference network. Source: Fan et al. 2024 (SimNPO)."""
    return npo_loss(losses, jnp.full_like(losses, margin), strength)


def l1_penalty(params: PyTree, strength: Float[Array, ""] | float) -> Float[Array, ""]:
    """α ‖θ‖₁ over all parameters, BatchNorm's and biases among them. Source: Jia et al. 2023 (l1-sparse)."""
    wide = lambda leaf: jnp.promote_types(leaf.dtype, jnp.float32)
    return strength * sum(jnp.sum(jnp.abs(leaf), dtype=wide(leaf)) for leaf in jax.tree.leaves(params))


def distillation(
    student: Float[Array, "B C"], teacher: Float[Array, "B C"], temperature: float = 1.0
) -> Float[Array, " B"]:
    """Per-row KL(teacher ‖ student) at a temperature, times its square (Hinton's scale)."""
    log_student = jax.nn.log_softmax(student / temperature)
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    return optax.losses.kl_divergence_with_log_targets(log_student, log_teacher) * temperature**2
