"""Membership inference from cached logits: does the network still treat forgotten rows as its own?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clujax.geometry import entropy


class Logistic(NamedTuple):
    """A fitted one-dimensional logistic model; a row is called a member where slope·score + intercept > 0."""

    slope: Float[Array, ""]
    intercept: Float[Array, ""]


def fit_logistic(
    members: Float[Array, " n"], strangers: Float[Array, " m"], *, penalty: float = 1.0, iterations: int = 50
) -> Logistic:
    """Balanced logistic regression on one score: ½ slope² + C Σ balanced log-losses, by damped Newton steps.

    Agrees with scikit-learn's `LogisticRegression(C=penalty, class_weight="balanced")`, whose intercept is free too.
    The score is standardised for the solve and the penalty rescaled, so scores of any unit converge.
    """
    score = jnp.concatenate([members, strangers])
    label = jnp.concatenate([jnp.ones_like(members), jnp.zeros_like(strangers)])
    count = score.size
    weight = penalty * jnp.where(label > 0, count / (2 * members.size), count / (2 * strangers.size))
    centre, scale = jnp.mean(score), jnp.maximum(jnp.std(score), 1e-12)
    design = jnp.stack([(score - centre) / scale, jnp.ones_like(score)])
    ridge = jnp.array([1.0 / scale**2, 0.0])

    def loss(theta):
        margin = theta @ design
        return jnp.sum(weight * (jnp.logaddexp(0.0, margin) - label * margin)) + 0.5 * jnp.sum(ridge * theta**2)

    def newton(theta, _):
        probability = jax.nn.sigmoid(theta @ design)
        gradient = design @ (weight * (probability - label)) + ridge * theta
        curvature = (design * (weight * probability * (1 - probability))) @ design.T + jnp.diag(ridge)
        # The intercept's curvature vanishes when the classes separate; 1e-6 of the weight keeps the solve finite.
        step = jnp.linalg.solve(curvature + 1e-6 * jnp.sum(weight) * jnp.eye(2) / count, gradient)
        trials = theta - 0.5 ** jnp.arange(6.0)[:, None] * step
        values = jax.vmap(loss)(trials)
        best = jnp.argmin(values)
        return jnp.where(values[best] < loss(theta), trials[best], theta), None

    theta, _ = jax.lax.scan(newton, jnp.zeros(2, score.dtype), length=iterations)
    return Logistic(theta[0] / scale, theta[1] - theta[0] * centre / scale)


def entropy_attack(
    remain: Float[Array, "r C"], unseen: Float[Array, "u C"], forget: Float[Array, "f C"]
) -> Float[Array, ""]:
    """Per cent of forget rows that an entropy attack calls members.

    A balanced logistic regression on the prediction entropy, remaining training rows as members, unseen rows as
    strangers. Read against the same number for a retrained network: closer is better.
    Source: the MIA of Huang et al. 2024 and of the bad-teacher family (protocol "LR-entropy").
    """
    model = fit_logistic(entropy(remain), entropy(unseen))
    return 100 * jnp.mean(model.slope * entropy(forget) + model.intercept > 0)
