"""Bandwidths learnt through the solve: the loss of the closed-form predictor, and its descent under `lax.scan`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from clujax.geometry.kernels import lab_gram, lab_kernel, laplacian
from clujax.regression.solve import AsymKrr, fit_coefficients, lu

Values = Float[Array | np.ndarray, "..."]


def mse(prediction: Values, target: Values) -> Array:
    """Mean squared error."""
    return jnp.mean(jnp.square(prediction - target))


def sse(prediction: Values, target: Values) -> Array:
    """Sum of squared errors (the authors' classification loss)."""
    return jnp.sum(jnp.square(prediction - target))


def rmse(prediction: Values, target: Values) -> Array:
    """Root of the mean squared error, with a finite slope at zero error."""
    return jnp.sqrt(mse(prediction, target) + 1e-12)


def mae(prediction: Values, target: Values) -> Array:
    """Mean absolute error."""
    return jnp.mean(jnp.abs(prediction - target))


def rsse(prediction: Values, target: Values) -> Array:
    """Relative sum of squared errors of the rows at hand; on a whole set 1 − rsse is R²."""
    return sse(prediction, target) / jnp.maximum(jnp.sum(jnp.square(target - jnp.mean(target, 0))), 1e-12)


class Bandwidths(NamedTuple):
    """How the trained array becomes Θ: `expand(raw, mask)`, its start `compress(theta)`, and rows for new points."""

    expand: Callable
    compress: Callable
    new_rows: Callable  # (theta [n, m], count) -> [count, m]


def _mean_rows(theta: Values, count: int) -> Values:
    return np.full((count, theta.shape[1]), np.mean(theta), theta.dtype)


def _same_rows(theta: Values, count: int) -> Values:
    return np.tile(np.mean(theta, 0, dtype=theta.dtype), (count, 1))


# Named functions, not closures: a fitted model that holds them can be pickled.
def _free(raw: Values, mask: Values) -> Values:
    return raw


def _exp(raw: Values, mask: Values) -> Values:
    return jnp.exp(raw)


def _ard(raw: Values, mask: Values) -> Values:
    return jnp.broadcast_to(jnp.sum(raw * mask[:, None], 0) / jnp.sum(mask), raw.shape)


def _scalar(raw: Values, mask: Values) -> Values:
    return jnp.broadcast_to(jnp.mean(_ard(raw, mask)[0]), raw.shape)


def _local_scalar(raw: Values, mask: Values) -> Values:
    return jnp.broadcast_to(jnp.mean(raw, 1, keepdims=True), raw.shape)


def _keep(theta: Values) -> Values:
    return theta


LOCAL = Bandwidths(_free, _keep, _mean_rows)
POSITIVE = Bandwidths(_exp, jnp.log, _mean_rows)
ARD = Bandwidths(_ard, _keep, _same_rows)
SCALAR = Bandwidths(_scalar, _keep, _mean_rows)
LOCAL_SCALAR = Bandwidths(_local_scalar, _keep, _mean_rows)


class Objective(NamedTuple):
    """What is minimised over the bandwidths; functions only, so that it is a static argument of a compiled step."""

    profile: Callable = laplacian
    loss: Callable = mse
    bandwidths: Bandwidths = LOCAL
    solve: Callable = lu
    fit_intercept: bool = True


DEFAULT = Objective()


def fit_support(
    theta: Values,
    support_x: Values,
    support_y: Values,
    ridge: float | Array,
    objective: Objective = DEFAULT,
    mask: Values | None = None,
) -> AsymKrr:
    """Coefficients of the support at given bandwidths Θ [n, m]."""
    gram = lab_gram(support_x, theta, profile=objective.profile)
    return fit_coefficients(
        gram, support_y, ridge, mask=mask, fit_intercept=objective.fit_intercept, solve=objective.solve
    )


def bandwidth_loss(
    raw: Values,
    support_x: Values,
    support_y: Values,
    x: Values,
    y: Values,
    ridge: float | Array,
    objective: Objective = DEFAULT,
    mask: Values | None = None,
) -> Array:
    """Loss on rows (x, y) of the predictor solved on the support; differentiable through K and through the solve.

    Cost: one kernel of (b + n) × n, one LU of n; its gradient about three times that.
    Source: arXiv 2406.01435, eq. 9.
    """
    mask = jnp.ones(len(support_x), support_x.dtype) if mask is None else mask
    theta = objective.bandwidths.expand(raw, mask)
    model = fit_support(theta, support_x, support_y, ridge, objective, mask)
    kernel = lab_kernel(x, support_x, theta, profile=objective.profile)
    return objective.loss(kernel @ model.coef + model.intercept, y)


def index_stream(
    key: PRNGKeyArray, rows: int, steps: int, batch_size: int, pool: Values | Int[np.ndarray, "p"] | None = None
) -> np.ndarray:
    """Row numbers [steps, batch_size]: fresh permutations one after another, cut to length; batches may straddle two.

    Example:
        >>> sorted(index_stream(jax.random.key(0), 4, 1, 4)[0].tolist())
        [0, 1, 2, 3]
    """
    pool = np.arange(rows) if pool is None else np.asarray(pool)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    epochs = max(1, -(-steps * batch_size // len(pool)))
    stream = np.concatenate([rng.permutation(pool) for _ in range(epochs)])
    return stream[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


@functools.lru_cache
def adam(learning_rate: float = 1e-2, clip: float = 10.0) -> optax.GradientTransformation:
    """Global-norm clip and Adam, the authors' optimiser; cached, so that equal settings compile once."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate))


@functools.partial(jax.jit, static_argnames=("objective", "tx"))
def train_bandwidths(
    raw: Values,
    opt_state: Any,
    stream: Int[Array | np.ndarray, "t b"],
    x: Values,
    y: Values,
    support_x: Values,
    support_y: Values,
    mask: Values,
    ridge: float | Array,
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
) -> tuple[Array, Any, Array]:
    """Descend for one step per row of `stream`, compiled once per shape.

    A step whose loss or gradient is not finite is refused, and so is every later one: the last finite values come back.

    Returns:
        the trained array, the optimiser's state, losses [t] (NaN from the first refused step on).

    Source: arXiv 2406.01435, algorithm 1.
    """

    def step(carry, rows):
        raw, opt_state, finite = carry
        loss, grad = jax.value_and_grad(bandwidth_loss)(
            raw, support_x, support_y, x[rows], y[rows], ridge, objective, mask
        )
        updates, new_state = tx.update(grad, opt_state, raw)
        new = optax.apply_updates(raw, jax.tree.map(lambda u: u * mask[:, None], updates))
        finite &= jnp.isfinite(loss) & jnp.isfinite(new).all()
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), (new, new_state), (raw, opt_state))
        return (*kept, finite), jnp.where(finite, loss, jnp.nan)

    (raw, opt_state, _), losses = jax.lax.scan(step, (raw, opt_state, jnp.array(True)), stream)
    return raw, opt_state, losses
