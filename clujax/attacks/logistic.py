"""Logistic attacks on one score: does the network still treat forgotten rows as its own?"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from clujax.attacks.checks import check_classes, check_rows
from clujax.errors import RequestError
from clujax.geometry import entropy

Scores = Float[Array | np.ndarray, " _n"]


class Logistic(NamedTuple):
    """A fitted one-dimensional logistic model; a row is called a member where slope·score + intercept > 0."""

    slope: Float[Array, ""]
    intercept: Float[Array, ""]


def fit_logistic(
    members: Scores,
    strangers: Scores,
    *,
    penalty: float = 1.0,
    iterations: int = 50,
    balanced: bool = True,
    weights: tuple[Scores, Scores] | None = None,
) -> Logistic:
    """Logistic regression on one score: ½ slope² + C Σ weighted log-losses, by damped Newton steps.

    Agrees with scikit-learn's `LogisticRegression(C=penalty, class_weight="balanced")`, whose intercept is free too.
    The score is standardised for the solve and the penalty rescaled, so scores of any unit converge.

    Args:
      penalty: C, the weight of the losses against the penalty on the slope.
      iterations: at most; the steps end once none lowers the loss.
      balanced: give both kinds of rows the same total weight, that of half the rows each.
      weights: of the members and of the strangers, at least 0; a row of weight 0 is as good as absent (padding, or a fold
        that is held out). None is 1 for all.

    Raises:
      RequestError: a kind has no row, or not as many weights as rows.

    Cost: 6 passes over the rows an iteration, usually 8 to 15 of them.
    """
    check_rows(members=members, strangers=strangers)
    members, strangers = jnp.asarray(members), jnp.asarray(strangers)
    inside, outside = weights or (jnp.ones_like(members), jnp.ones_like(strangers))
    for name, given, rows in (("members", inside, members), ("strangers", outside, strangers)):
        if given.shape != rows.shape:
            raise RequestError(f"weights of {name} have shape {given.shape}; expected one a row, {rows.shape}.")
    return _fit(members, strangers, inside, outside, penalty, iterations, balanced)


def entropy_attack(
    remain: Float[Array | np.ndarray, "r _C"],
    unseen: Float[Array | np.ndarray, "u _C"],
    forget: Float[Array | np.ndarray, "f _C"],
) -> Float[Array, ""]:
    """Per cent of forget rows that an entropy attack calls members.

    A balanced logistic regression on the prediction entropy, remaining training rows as members, unseen rows as
    strangers. Read against the same number for a retrained network: closer is better.

    Raises:
      RequestError: an empty set, or logits of unequal numbers of classes.

    Source: the MIA of Huang et al. 2024 and of the bad-teacher family (protocol "LR-entropy").
    """
    check_classes(remain=remain, unseen=unseen, forget=forget)
    return 100 * _entropy_attack(jnp.asarray(remain), jnp.asarray(unseen), jnp.asarray(forget))


def loss_attack(
    forget_losses: Scores,
    unseen_losses: Scores,
    key: PRNGKeyArray,
    *,
    splits: int = 10,
    test_share: float = 0.1,
    clip: float | None = None,
) -> Float[Array, ""]:
    """Per cent of held-out rows that a logistic attack on the loss puts on the right side, mean over random splits.

    The larger set is subsampled to the smaller; each split holds out the same share of both. About 50 is what chance and
    usually a retrained network give; well below 50 can mean over-forgetting. The starting kit of the NeurIPS 2023
    challenge uses the defaults; SCRUB uses `splits=5, clip=100` and unseen rows of the forgotten classes alone.

    Args:
      splits: stratified shuffle splits, all fitted in one program.
      test_share: of the rows, held out; rounded, at least one row of each kind.
      clip: losses beyond ±clip count as ±clip; None does not clip.

    Raises:
      ValueError: splits below 1 or a share outside (0, 1).
      RequestError: fewer than 2 rows of a kind: none would be left to fit.

    Source: Triantafillou et al. 2024 (the challenge); Kurmanji et al. 2023 (SCRUB).
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected at least 1.")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected a share in (0, 1).")
    count = min(forget_losses.shape[0], unseen_losses.shape[0])
    if count < 2:
        raise RequestError(
            f"{forget_losses.shape[0]} forget and {unseen_losses.shape[0]} unseen losses: each kind needs a row to fit"
            " and a row to hold out, so at least 2."
        )
    held = min(max(1, math.floor(test_share * count + 0.5)), count - 1)
    limit = jnp.inf if clip is None else clip
    return _held_out_accuracy(jnp.asarray(forget_losses), jnp.asarray(unseen_losses), key, limit, count, held, splits)


@partial(jax.jit, static_argnums=(5, 6))
def _fit(members, strangers, inside, outside, penalty, iterations, balanced):
    score = jnp.concatenate([members, strangers]).astype(jnp.promote_types(members.dtype, jnp.zeros(()).dtype))
    label = jnp.concatenate([jnp.ones_like(members), jnp.zeros_like(strangers)]).astype(score.dtype)
    if balanced:
        count = jnp.sum(inside) + jnp.sum(outside)
        inside, outside = (count * w / (2 * jnp.maximum(jnp.sum(w), 1e-30)) for w in (inside, outside))
    weight = jnp.concatenate([inside, outside]).astype(score.dtype)
    share = weight / jnp.sum(weight)
    centre = jnp.sum(share * score)
    scale = jnp.maximum(jnp.sqrt(jnp.sum(share * (score - centre) ** 2)), 1e-12)
    design = jnp.stack([(score - centre) / scale, jnp.ones_like(score)])
    weight = penalty * weight
    ridge = jnp.stack([1.0 / scale**2, jnp.zeros_like(scale)])

    def loss(theta):
        margin = theta @ design
        return jnp.sum(weight * (jnp.logaddexp(0.0, margin) - label * margin)) + 0.5 * jnp.sum(ridge * theta**2)

    def newton(state):
        theta, value, _, count = state
        probability = jax.nn.sigmoid(theta @ design)
        gradient = design @ (weight * (probability - label)) + ridge * theta
        curvature = (design * (weight * probability * (1 - probability))) @ design.T + jnp.diag(ridge)
        # The intercept's curvature vanishes when the classes separate; 1e-6 of the mean weight keeps the solve finite.
        step = _solve(curvature + 1e-6 * jnp.mean(weight) * jnp.eye(2), gradient)
        trials = theta - 0.5 ** jnp.arange(6.0)[:, None] * step
        values = jax.vmap(loss)(trials)
        best = jnp.argmin(values)
        better = values[best] < value
        return (
            jnp.where(better, trials[best], theta),
            jnp.where(better, values[best], value),
            better,
            count + 1,
        )

    start = jnp.zeros(2, score.dtype)
    # A step that does not lower the loss changes nothing, and neither would any later one.
    state = (start, loss(start), jnp.array(True), 0)
    theta, *_ = jax.lax.while_loop(lambda s: s[2] & (s[3] < iterations), newton, state)
    return Logistic(theta[0] / scale, theta[1] - theta[0] * centre / scale)


def _solve(matrix, right):
    """A symmetric positive definite system of two, in closed form: a batched solver takes seconds to compile."""
    (a, b), (_, d) = matrix
    return jnp.stack([d * right[0] - b * right[1], a * right[1] - b * right[0]]) / (a * d - b * b)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _held_out_accuracy(forget, unseen, key, limit, count, held, splits):
    forget, unseen = jnp.clip(forget, -limit, limit), jnp.clip(unseen, -limit, limit)
    balance_key, split_key = jax.random.split(key)
    forget_key, unseen_key = jax.random.split(balance_key)
    forget = jax.random.permutation(forget_key, forget)[:count]
    unseen = jax.random.permutation(unseen_key, unseen)[:count]

    def accuracy(key):
        first, second = jax.random.split(key)
        inside, outside = jax.random.permutation(first, forget), jax.random.permutation(second, unseen)
        model = fit_logistic(inside[held:], outside[held:], balanced=False)
        called = lambda losses: model.slope * losses[:held] + model.intercept > 0
        return (jnp.mean(called(inside)) + jnp.mean(~called(outside))) / 2

    return 100 * jnp.mean(jax.vmap(accuracy)(jax.random.split(split_key, splits)))


@jax.jit
def _entropy_attack(remain, unseen, forget):
    model = fit_logistic(entropy(remain), entropy(unseen))
    return jnp.mean(model.slope * entropy(forget) + model.intercept > 0)
