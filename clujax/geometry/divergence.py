"""Divergences between categorical distributions given by logits, in log space; in nats, over the last axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def entropy(logits: Float[Array, "*rows C"]) -> Float[Array, "*rows"]:
    """−Σ p log p of softmax(logits); 0 log 0 is 0.

    Example:
      >>> round(float(entropy(jnp.zeros(4))), 4)
      1.3863
    """
    log_p = _log_softmax(logits)
    return -jnp.sum(_times_log(jnp.exp(log_p), log_p), -1)


def kl(p_logits: Float[Array, "*rows C"], q_logits: Float[Array, "*rows C"]) -> Float[Array, "*rows"]:
    """KL(p ‖ q) = Σ p (log p − log q); infinite where q has no mass and p has."""
    log_p, log_q = _log_softmax(p_logits), _log_softmax(q_logits)
    return jnp.sum(_times_log(jnp.exp(log_p), log_p - log_q), -1)


def js(p_logits: Float[Array, "*rows C"], q_logits: Float[Array, "*rows C"]) -> Float[Array, "*rows"]:
    """Jensen–Shannon divergence, symmetric and at most log 2.

    Example:
      >>> a, b = jnp.array([100.0, -100.0]), jnp.array([-100.0, 100.0])
      >>> round(float(js(a, b)), 4), round(float(jnp.log(2)), 4)
      (0.6931, 0.6931)
    """
    log_p, log_q = _log_softmax(p_logits), _log_softmax(q_logits)
    alive = (log_p > -jnp.inf) | (log_q > -jnp.inf)  # logaddexp(−∞, −∞) has a NaN gradient
    log_m = jnp.logaddexp(jnp.where(alive, log_p, 0.0), jnp.where(alive, log_q, 0.0)) - jnp.log(2.0).astype(log_p.dtype)
    half = _times_log(jnp.exp(log_p), log_p - log_m) + _times_log(jnp.exp(log_q), log_q - log_m)
    return jnp.maximum(0.5 * jnp.sum(half, -1), 0.0)


def hellinger(p_logits: Float[Array, "*rows C"], q_logits: Float[Array, "*rows C"]) -> Float[Array, "*rows"]:
    """Hellinger distance, sqrt(½ Σ (√p − √q)²) = sqrt(1 − Σ √(p q)), in [0, 1]; its gradient at p = q is 0."""
    half = 0.5 * jnp.sum(jnp.square(jnp.exp(0.5 * _log_softmax(p_logits)) - jnp.exp(0.5 * _log_softmax(q_logits))), -1)
    apart = half > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, half, 1.0)), 0.0)


def _log_softmax(logits):
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def _times_log(p, log_term):
    """P · log_term with 0 where p is 0, and no NaN in its gradient either."""
    alive = p > 0
    return jnp.where(alive, p * jnp.where(alive, log_term, 0.0), 0.0)
