"""Threshold-free readings of two sets of scores: area under the ROC curve, its left end, the best balanced accuracy."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from clujax.attacks.checks import check_rows

Scores = Float[Array | np.ndarray, " _n"]


def auc(negatives: Scores, positives: Scores) -> Float[Array, ""]:
    """P(positive > negative) + ½ P(positive = negative): the area under the ROC curve, ties counted half.

    Example:
      >>> float(auc(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0])))
      0.875

    Raises:
      RequestError: a set is empty.

    Cost: a sort of the negatives and a binary search for each positive.
    """
    check_rows(negatives=negatives, positives=positives)
    below, up_to = _ranks(jnp.sort(jnp.asarray(negatives)), positives)
    # Centred before the mean: float32 then keeps 1e-6 on 10⁵ rows.
    return 0.5 + jnp.mean((below + up_to) / (2 * negatives.shape[0]) - 0.5)


def tpr_at_fpr(negatives: Scores, positives: Scores, fpr: float) -> Float[Array, ""]:
    """The largest true-positive rate of a threshold whose false-positive rate is at most `fpr`, both in [0, 1].

    Raises:
      ValueError: fpr outside [0, 1].
      RequestError: a set is empty.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}; expected a rate in [0, 1].")
    check_rows(negatives=negatives, positives=positives)
    allowed = math.floor(fpr * negatives.shape[0] + 1e-9)
    if allowed >= negatives.shape[0]:
        return jnp.ones(())
    return jnp.mean(jnp.asarray(positives) > jnp.sort(jnp.asarray(negatives))[-1 - allowed])


def balanced_accuracy(negatives: Scores, positives: Scores) -> Float[Array, ""]:
    """Best ½ (P(positive ≥ τ) + P(negative < τ)) over thresholds τ, in [½, 1]; chosen on the rows it is read on.

    Raises:
      RequestError: a set is empty.
    """
    check_rows(negatives=negatives, positives=positives)
    negatives, positives = jnp.sort(jnp.asarray(negatives)), jnp.sort(jnp.asarray(positives))
    missed, _ = _ranks(positives, positives)
    rejected, _ = _ranks(negatives, positives)
    best = jnp.max(rejected / negatives.shape[0] - missed / positives.shape[0])
    return 0.5 + 0.5 * jnp.maximum(best, 0.0)


def loss_auc(forget_losses: Scores, unseen_losses: Scores) -> Float[Array, ""]:
    """AUC of telling unseen rows (positive) from forget rows by a larger loss; ½ is no difference, far below ½ a collapse.

    Read against the retrained network's (`priv_leak`).

    Source: Shi et al. 2024 (MUSE).
    """
    return auc(forget_losses, unseen_losses)


def priv_leak(auc_unlearned: Float[Array, ""] | float, auc_retrained: Float[Array, ""] | float) -> Float[Array, ""]:
    """100 ((1 − AUC_u) − (1 − AUC_*)) / (1 − AUC_*) of two `loss_auc`: 0 is ideal, negative still remembers.

    Example:
      >>> round(float(priv_leak(0.75, 0.5)), 3)
      -50.0

    Source: Shi et al. 2024 (MUSE).
    """
    retrained = 1 - jnp.asarray(auc_retrained)
    return 100 * ((1 - jnp.asarray(auc_unlearned)) - retrained) / retrained


def _ranks(ordered, values):
    """How many of the ordered values are below, and how many at most, each value."""
    values = jnp.asarray(values)
    return tuple(jnp.searchsorted(ordered, values, side=side, method="sort") for side in ("left", "right"))
