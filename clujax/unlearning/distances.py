"""How far a network's outputs and weights are from another's: numbers of the evaluation table that are no attack."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from clujax.geometry import distance, js, norm


def activation_distance(
    logits: Float[Any, "*M n C"], reference: Float[Any, "*M n C"], order: int = 2
) -> Float[Array, "*M"]:
    """Mean over rows of ‖softmax(logits) − softmax(reference)‖: `order` 2 as for bad teacher, 1 as in SCRUB's code."""
    difference = jax.nn.softmax(logits) - jax.nn.softmax(reference)
    return jnp.mean(jnp.linalg.norm(difference, ord=order, axis=-1), -1)


def agreement(logits: Float[Any, "*M n C"], reference: Float[Any, "*M n C"]) -> Float[Array, "*M"]:
    """Share of rows that both networks put into the same class."""
    return jnp.mean(logits.argmax(-1) == reference.argmax(-1), -1)


def zrf(logits: Float[Any, "*M n C"], untrained: Float[Any, "*M n C"], *, official: bool = False) -> Float[Array, "*M"]:
    """Zero-retrain forgetting: 1 − JS(p, p of an untrained network) / ln 2, in [0, 1]; 1 is a network that knows nothing.

    With `official` the published code's number: the KL arguments are reversed and the mean runs over classes too, so that the
    divergence is about 1/C of a Jensen–Shannon divergence and the number close to 1 whatever the network is.
    Source: Chundawat et al. 2023.
    """
    logits, untrained = jnp.asarray(logits), jnp.asarray(untrained)
    if not official:
        return 1 - jnp.mean(js(logits, untrained), -1) / jnp.log(2.0)
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(untrained)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    halves = jnp.exp(log_m) * (log_m - log_p) + jnp.exp(log_m) * (log_m - log_q)
    return 1 - 0.5 * jnp.mean(halves, (-2, -1))


def tug_of_war(
    values: Mapping[str, float], reference: Mapping[str, float], forgetting: str = "FA", scale: float = 100.0
) -> float:
    """ToW = Π (1 − |Δ|) over forget, remain and test accuracy, Δ to the retrained network; 1 is retraining itself.

    Args:
      values, reference: metrics in per cent.
      forgetting: "FA", or "MIA" for ToW-MIA.

    Source: Zhao et al. 2024 (RUM).
    """
    product = 1.0
    for key in (forgetting, "RA", "TA"):
        product *= 1 - abs(values[key] - reference[key]) / scale
    return product


def class_confusion(
    logits: Float[Any, "n C"], labels: Int[Any, " n"], pair: tuple[int, int]
) -> dict[str, Float[Array, ""]]:
    """The interclass confusion test, after two classes' labels were exchanged in part of the training rows.

    Args:
      labels: true ones.
      pair: the two classes.

    Returns:
      `error`: share of the two classes' rows that are put into the other one; `count`: how many.
      On unseen rows the error, on the forgotten rows (with their true labels) the count is to be that of retraining.

    Source: Goel et al. 2022.
    """
    first, second = pair
    other = jnp.where(labels == first, second, first)
    ours = (labels == first) | (labels == second)
    confused = ours & (logits.argmax(-1) == other)
    return {"error": jnp.sum(confused) / jnp.maximum(jnp.sum(ours), 1), "count": jnp.sum(confused)}


def entanglement(remain: Float[Any, "r F"], forget: Float[Any, "f F"]) -> Float[Array, ""]:
    """Within-set over between-set spread of features: large where forget and remaining rows lie among each other.

    (mean ‖z − μ_r‖² + mean ‖z − μ_f‖²) / ½(‖μ_r − μ‖² + ‖μ_f − μ‖²), μ the mean of all rows. Source: Zhao et al. 2024.
    """
    centres = [jnp.mean(part, 0) for part in (remain, forget)]
    middle = jnp.mean(jnp.concatenate([remain, forget]), 0)
    within = [jnp.mean(jnp.sum((part - c) ** 2, -1)) for part, c in zip((remain, forget), centres, strict=True)]
    between = [jnp.sum((c - middle) ** 2) for c in centres]
    return sum(within) / (0.5 * sum(between))


def parameter_distance(params: PyTree, reference: PyTree) -> Float[Array, ""]:
    """‖θ − θ_ref‖ / ‖θ_ref‖; to a retrained network it means something only where both began at the same θ₀."""
    return distance(params, reference) / norm(reference)
