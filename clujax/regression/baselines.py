"""What a compact model is measured against: full kernel machines and a residual network, settings by hold-out.

The kernel machines are scikit-learn's or LAPACK's on the host: reference answers, not part of a fit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jaxtyping import PRNGKeyArray
from scipy.spatial.distance import cdist

from clujax.regression.bandwidths import index_stream
from clujax.regression.choice import hold_out
from clujax.regression.scaling import min_max

MOST = 2000  # rows that settings are chosen on


class Baseline(NamedTuple):
    """A fitted machine: `predict(x)` in original units, how many training rows it keeps, and what was chosen."""

    predict: Callable
    support: int
    settings: dict[str, Any]


def rbf(squared: np.ndarray, gamma: float) -> np.ndarray:
    """Isotropic exp(−γ d²)."""
    return np.exp(-gamma * squared)


def laplace(squared: np.ndarray, gamma: float) -> np.ndarray:
    """Isotropic exp(−γ d), d the 2-norm."""
    return np.exp(-gamma * np.sqrt(squared))


def kernel_ridge(
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    kernel: Callable = rbf,
    *,
    gammas: Sequence[float] = tuple(10.0**k for k in range(-4, 3)),
    ridges: Sequence[float] = tuple(10.0**k for k in range(-8, 1)),
    theta: np.ndarray | None = None,
) -> Baseline:
    """Kernel ridge regression on all rows, float64; γ·m (a factor of `theta`² if given) and ridge by hold-out.

    Args:
        key: decides the held-out rows.
        x: [n, m] rows.
        y: [n] targets.
        kernel: (squared distances, γ) -> values.
        gammas: candidates of γ·m.
        ridges: candidates of the ridge; one eigendecomposition serves all.
        theta: [m] inverse length scales in the scaled units of a `LabRbfModel` (an ARD kernel); γ then is 1 times these.
    """
    sx, sy = min_max(x), min_max(y)
    weight = np.ones(x.shape[1]) / np.sqrt(x.shape[1]) if theta is None else np.asarray(theta, np.float64)
    rows, target = sx.forward(x) * weight, sy.forward(y)
    fit_rows, held = hold_out(key, len(x))
    fit_rows = fit_rows[:MOST]
    mean = target[fit_rows].mean()
    inside, across = (cdist(rows[a], rows[fit_rows], "sqeuclidean") for a in (fit_rows, held))
    best = (np.inf, 0.0, 0.0)
    for gamma in gammas:
        values, vectors = scipy.linalg.eigh(kernel(inside, gamma))
        projected, seen = vectors.T @ (target[fit_rows] - mean), kernel(across, gamma) @ vectors
        for ridge in ridges:
            error = np.mean((seen @ (projected / (values + ridge)) + mean - target[held]) ** 2)
            best = min(best, (error, gamma, ridge))
    _, gamma, ridge = best
    mean = target.mean()
    gram = kernel(cdist(rows, rows, "sqeuclidean"), gamma)
    gram[np.diag_indices_from(gram)] += ridge
    coef = scipy.linalg.solve(gram, target - mean, assume_a="sym")

    def predict(new: np.ndarray) -> np.ndarray:
        found = kernel(cdist(sx.forward(new) * weight, rows, "sqeuclidean"), gamma) @ coef + mean
        return np.clip(sy.inverse(found), y.min(), y.max())

    return Baseline(predict, len(x), {"gamma": gamma, "ridge": ridge})


def support_vector(
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    gammas: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
    costs: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    epsilon: float = 0.01,
    most: int = 1000,
) -> Baseline:
    """Support vector regression with the isotropic RBF kernel; γ·m and C by hold-out, y scaled to [−1, 1]."""
    from sklearn.svm import SVR

    sx, sy = min_max(x), min_max(y)
    rows, target = sx.forward(x), sy.forward(y)
    fit_rows, held = hold_out(key, len(x))
    fit_rows, held = fit_rows[:most], held[:most]
    make = lambda gamma, cost: SVR(gamma=gamma / x.shape[1], C=cost, epsilon=epsilon, cache_size=500)
    error = lambda pair: np.mean(
        (make(*pair).fit(rows[fit_rows], target[fit_rows]).predict(rows[held]) - target[held]) ** 2
    )
    gamma, cost = min(((g, c) for g in gammas for c in costs), key=error)
    machine = make(gamma, cost).fit(rows, target)
    predict = lambda new: np.clip(sy.inverse(machine.predict(sx.forward(new))), y.min(), y.max())
    return Baseline(predict, len(machine.support_), {"gamma": gamma, "C": cost, "epsilon": epsilon})


class ResidualNet(nn.Module):
    """A dense stem, blocks of two dense layers with a skip, one output; layer norms where the authors' had batch norms."""

    width: int = 128
    blocks: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for _ in range(self.blocks):
            y = nn.Dense(self.width)(nn.relu(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(nn.relu(nn.LayerNorm()(y)))
        return nn.Dense(1)(nn.relu(x))[:, 0]


def residual_network(
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    net: nn.Module = ResidualNet(),  # noqa: B008
    steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    check_every: int = 100,
) -> Baseline:
    """A residual network by Adam on squared error, at the step that was best on held-out rows."""
    sx, sy = min_max(x), min_max(y)
    rows, target = sx.forward(x).astype(np.float32), sy.forward(y).astype(np.float32)
    fit_rows, held = hold_out(key, len(x))
    tx = optax.adam(learning_rate)
    params = net.init(key, rows[:1])
    loss = lambda p, a, b: jnp.mean(jnp.square(net.apply(p, a) - b))

    @jax.jit
    def descend(carry, stream):
        def step(carry, batch):
            params, state = carry
            grad = jax.grad(loss)(params, jnp.asarray(rows)[batch], jnp.asarray(target)[batch])
            updates, state = tx.update(grad, state)
            return (optax.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, carry, stream)
        return carry, loss(carry[0], rows[held], target[held])

    carry, best = (params, tx.init(params)), (np.inf, params)
    stream = index_stream(key, len(x), steps, batch_size, fit_rows)
    for begin in range(0, steps, check_every):
        carry, error = descend(carry, stream[begin : begin + check_every])
        if error < best[0]:
            best = (float(error), carry[0])
    apply = jax.jit(net.apply)

    def predict(new: np.ndarray) -> np.ndarray:
        found = np.asarray(apply(best[1], sx.forward(new).astype(np.float32)), np.float64)
        return np.clip(sy.inverse(found), y.min(), y.max())

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Baseline(predict, 0, {"parameters": count, "steps": steps})
