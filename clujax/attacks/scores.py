"""Membership scores of single rows from cached logits; all in log space, so that overconfident rows keep their order."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from optax.losses import softmax_cross_entropy_with_integer_labels as _cross_entropy

from clujax.attacks.checks import check_labels
from clujax.geometry import entropy

__all__ = ["confidence", "correctness", "cross_entropy", "entropy", "m_entropy", "scaled_confidence"]

Logits = Float[Array | np.ndarray, "*rows C"]
Labels = Int[Array | np.ndarray, "*_labels"]

# The logs of the published scores stop here.
FLOOR = math.log(1e-30)


def confidence(logits: Logits, labels: Labels) -> Float[Array, "*rows"]:
    """p_y, the probability of the label.

    Example:
      >>> round(float(confidence(jnp.log(jnp.array([0.2, 0.8])), jnp.array(1))), 6)
      0.8
    """
    return jnp.exp(_at_label(_log_softmax(logits), labels))


def cross_entropy(logits: Logits, labels: Labels) -> Float[Array, "*rows"]:
    """−log p_y, the loss."""
    check_labels(logits.shape[:-1], labels)
    return _cross_entropy(_wide(logits), jnp.asarray(labels))


def correctness(logits: Logits, labels: Labels) -> Float[Array, "*rows"]:
    """1 where the largest logit is the label's, else 0."""
    check_labels(logits.shape[:-1], labels)
    return (jnp.argmax(jnp.asarray(logits), -1) == jnp.asarray(labels)).astype(_wide(logits).dtype)


def scaled_confidence(logits: Logits, labels: Labels, *, official: bool = False) -> Float[Array, "*rows"]:
    """LiRA's score log p_y − log Σ_{c≠y} p_c: near Gaussian over models, and −∞ to ∞ where p_y saturates.

    Args:
      official: add 1e-45 to both probabilities, as the published code does: the score then ends at ±103.

    Source: Carlini et al. 2022 (LiRA).
    """
    check_labels(logits.shape[:-1], labels)
    logits, own = _wide(logits), jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    right = jnp.sum(jnp.where(own, logits, 0.0), -1)
    wrong = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), -1)
    if not official:
        return right - wrong
    total, floor = jnp.logaddexp(right, wrong), math.log(1e-45)
    return jnp.logaddexp(right - total, floor) - jnp.logaddexp(wrong - total, floor)


def m_entropy(logits: Logits, labels: Labels, *, official: bool = False) -> Float[Array, "*rows"]:
    """−(1 − p_y) log p_y − Σ_{c≠y} p_c log(1 − p_c): an entropy that is small only where the network is right.

    Logs stop at log 1e-30; 1 − p of the largest class is taken from the other logits, never by subtraction.

    Args:
      official: the number of the published unlearning code, which is another one: −Σ_{c∈S} (1 − p_c) log p_c
        − Σ_{c∉S} p_c log p_c for every row, where S is the set of labels that occur. It depends on which rows come together.

    Source: Song and Mittal 2021; official: Jia et al. 2023 and Fan et al. 2024.
    """
    check_labels(logits.shape[:-1], labels)
    log_p = _log_softmax(logits)
    p = jnp.exp(log_p)
    classes = p.shape[-1]
    if official:
        present = jnp.zeros(classes, bool).at[jnp.ravel(jnp.asarray(labels))].set(True)
        logs = jnp.where(p > 0, log_p, FLOOR)
        return -jnp.sum(jnp.where(present, 1 - p, p) * logs, -1)
    top = jax.nn.one_hot(jnp.argmax(log_p, -1), classes, dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(top, -jnp.inf, log_p), -1, keepdims=True)
    log_other = jnp.where(top, rest, jnp.log1p(-jnp.where(top, 0.0, p)))
    own = jax.nn.one_hot(labels, classes, dtype=bool)
    mass = jnp.where(own, jnp.exp(log_other), p)
    return -jnp.sum(mass * jnp.maximum(jnp.where(own, log_p, log_other), FLOOR), -1)


def _wide(logits):
    """At least float32."""
    logits = jnp.asarray(logits)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _log_softmax(logits):
    return jax.nn.log_softmax(_wide(logits))


def _at_label(values, labels):
    check_labels(values.shape[:-1], labels)
    return jnp.take_along_axis(values, jnp.asarray(labels)[..., None], -1)[..., 0]
