"""Likelihood-ratio attacks: for each example its own two laws of the score, over many models with and without it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from clujax.attacks.roc import auc, balanced_accuracy, tpr_at_fpr
from clujax.errors import RequestError

# Scores of S models on Q examples, with any axes of augmentations after them.
Scores = Float[Array | np.ndarray, "S Q *augmentations"]
Assigned = Bool[Array | np.ndarray, "_S _Q"]


class Audit(NamedTuple):
    """How well (target model, example) pairs with the example are told from those without; ½, ½ and the rates are chance."""

    auc: Float[Array, ""]
    balanced_accuracy: Float[Array, ""]
    tpr_at_fpr_001: Float[Array, ""]
    tpr_at_fpr_01: Float[Array, ""]
    evidence: Float[Array, "T Q"]


def lira(
    scores: Scores,
    assigned: Assigned,
    targets: Sequence[int] | None = None,
    *,
    fixed_variance: bool = False,
    offline: bool = False,
    official: bool = False,
) -> Float[Array, "T Q"]:
    """Evidence that each target model had each example: log N(s; μ_in, σ_in) − log N(s; μ_out, σ_out).

    Centres are medians and spreads standard deviations over the models that are not targets, for each example.
    Evidence is averaged over augmentations, which have Gaussians of their own.

    Args:
      scores: `scaled_confidence` of each model on each example, `[S, Q]` or `[S, Q, A]`.
      assigned: True where the model had the example.
      targets: the models attacked, held out of every fit; None attacks each in turn with a fit on all others.
      fixed_variance: one spread for all examples, from the deviations about each example's centre (few models).
      offline: without the models that had the example: log Φ((s − μ_out) / σ_out), large where s is larger than without.
      official: the published code where it differs: with `fixed_variance`, the spread of all "in" scores of all examples
        together, for both laws; with `offline`, −log N(s; μ_out, σ_out), for which a score far below is evidence too;
        always, spreads of at least 1e-30, not 1e-6 of the score's size.

    Raises:
      RequestError: shapes that do not match, a target that is no model, or an example with fewer than 2 models of a kind
        left to fit on.

    Source: Carlini et al. 2022.
    """
    return _evidence(_gaussian, (fixed_variance, offline, official), scores, assigned, targets, offline)


def ruli(
    scores: Scores, assigned: Assigned, targets: Sequence[int] | None = None, *, bandwidth: float = 1.0
) -> Float[Array, "T Q"]:
    """L_in / (L_in + L_out) in [0, 1] by Gaussian kernel densities of each example's scores; above ½ is called unlearned.

    Args and raises as `lira`, with the models that learned and unlearned the example assigned.

    Source: the published code of RULI, which takes a bandwidth of 1.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; expected a positive number.")
    return jax.nn.sigmoid(_evidence(_kernel_density, (float(bandwidth),), scores, assigned, targets))


def u_lira(
    scores: Scores,
    assigned: Assigned,
    targets: Sequence[int] | None = None,
    *,
    attack: Callable[..., Float[Array, "T Q"]] = lira,
) -> Audit:
    """Can models that learned and unlearned an example be told from models that never saw it (and unlearned others)?

    Args:
      scores: `[S, Q]` of the unlearned models.
      assigned: True where the example was trained on and then unlearned, False where it was never trained on.
      targets: as `lira`.
      attack: `attack(scores, assigned, targets)`, `lira` or `ruli`, or either with settings.

    Returns:
      The AUC, the best balanced accuracy and the true-positive rates at 0.1 % and 1 % false positives over all pairs of a
      target and an example, and the evidence of each pair.

    Raises:
      RequestError: as `lira`, or all pairs of the targets are of one kind.

    Source: Hayes et al. 2024 (U-LiRA).
    """
    chosen = _targets(scores, assigned, targets)
    truth = np.asarray(assigned)[chosen]
    if truth.all() or not truth.any():
        raise RequestError(
            f"targets {chosen.tolist()} {'all had' if truth.all() else 'never had'} every example: an attack needs both"
            " kinds of pairs. Assign about half of the examples to each model."
        )
    evidence = attack(scores, assigned, targets)
    negatives, positives = evidence[~truth], evidence[truth]
    return Audit(
        auc(negatives, positives),
        balanced_accuracy(negatives, positives),
        tpr_at_fpr(negatives, positives, 0.001),
        tpr_at_fpr(negatives, positives, 0.01),
        evidence,
    )


def _evidence(law, settings, scores, assigned, targets, offline=False):
    """The law's log ratio for each target; its fit sees no target."""
    chosen = _targets(scores, assigned, targets)
    assigned = np.asarray(assigned)
    fitted = np.ones(len(assigned), bool)
    if targets is not None:
        fitted[chosen] = False
    for kind, of_kind in (("with", assigned), ("without", ~assigned)):
        left = np.sum(of_kind & fitted[:, None], 0) - (of_kind.any(0) if targets is None else 0)
        if left.min() < 2 and not (offline and kind == "with"):
            raise RequestError(
                f"example {int(left.argmin())} has {max(int(left.min()), 0)} models {kind} it left to fit on besides the"
                " target; its law needs at least 2. Train more models, or name fewer targets."
            )
    return _ratios(jnp.asarray(scores), assigned, fitted, chosen, law, settings)


@partial(jax.jit, static_argnums=(4, 5))
def _ratios(scores, assigned, fitted, chosen, law, settings):
    def attack(target):
        kept = fitted & (jnp.arange(len(scores)) != target)
        ratio = law(scores[target], scores, assigned & kept[:, None], ~assigned & kept[:, None], *settings)
        return jnp.mean(ratio.reshape(ratio.shape[0], -1), -1)

    return jax.lax.map(attack, chosen)


def _targets(scores, assigned, targets):
    """Checked indices of the targets."""
    if scores.ndim < 2 or assigned.shape != scores.shape[:2]:
        raise RequestError(
            f"scores have shape {scores.shape} and assigned {assigned.shape}; expected [S, Q, ...] and [S, Q]."
        )
    chosen = np.arange(len(scores)) if targets is None else np.asarray(targets, int).reshape(-1)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= len(scores):
        raise RequestError(
            f"targets are {chosen.tolist()}; expected indices of the {len(scores)} models, at least one."
        )
    return chosen


def _gaussian(score, scores, inside, outside, fixed_variance, offline, official):
    centre_in, spread_in = _moments(scores, inside, fixed_variance, official)
    centre_out, spread_out = _moments(scores, outside, fixed_variance, official)
    if fixed_variance and official and not offline:
        spread_out = spread_in
    density = jax.scipy.stats.norm.logpdf
    if offline:
        if official:
            return -density(score, centre_out, spread_out)
        return jax.scipy.stats.norm.logcdf(score, centre_out, spread_out)
    return density(score, centre_in, spread_in) - density(score, centre_out, spread_out)


def _moments(scores, mask, fixed_variance, official):
    """Median and standard deviation over the models of a mask, for each example (and augmentation)."""
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (scores.ndim - 2)), scores.shape)
    kept = jnp.where(mask, scores, jnp.nan)
    centre = jnp.nanmedian(kept, 0)
    if not fixed_variance:
        spread = jnp.nanstd(kept, 0)
    elif official:
        spread = jnp.nanstd(kept)
    else:
        spread = jnp.sqrt(jnp.nanmean((kept - centre) ** 2))
    if official:
        return centre, spread + 1e-30
    # Equal scores leave no spread: rounding must not pass for evidence without bound.
    return centre, jnp.maximum(spread, 1e-6 * (1 + jnp.abs(centre)))


def _kernel_density(score, scores, inside, outside, bandwidth):
    exponent = -0.5 * ((score - scores) / bandwidth) ** 2

    def log_density(mask):
        mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (scores.ndim - 2)), scores.shape)
        return jax.nn.logsumexp(jnp.where(mask, exponent, -jnp.inf), 0) - jnp.log(jnp.sum(mask, 0))

    return log_density(inside) - log_density(outside)
