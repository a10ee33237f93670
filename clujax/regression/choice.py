"""Settings chosen without the test rows: by a held-out share of training, or by leaving support points out."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from clujax.regression.bandwidths import fit_support
from clujax.regression.fit import FitOptions, LabRbfModel, fit_lab_rbf, predict, support_gram
from clujax.regression.solve import ConditioningWarning, leave_one_out


class Choice(NamedTuple):
    """The chosen options, and the error of every candidate (infinite where a fit failed)."""

    options: FitOptions
    errors: tuple[float, ...]


def hold_out(key: PRNGKeyArray, rows: int, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to fit on and row numbers held out.

    Example:
        >>> [len(part) for part in hold_out(jax.random.key(0), 10)]
        [8, 2]
    """
    order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(rows)
    held = min(rows - 1, max(1, round(share * rows)))
    return order[held:], order[:held]


def mean_squared(prediction: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error, the default judge of a candidate."""
    return float(np.mean(np.square(prediction - y)))


def error_rate(prediction: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose largest output is another class than that of one-hot y."""
    return float(np.mean(prediction.argmax(-1) != y.argmax(-1)))


def choose(
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    candidates: Sequence[FitOptions],
    *,
    share: float = 0.2,
    error: Callable = mean_squared,
    grow_steps: int | None = None,
    final_steps: int | None = None,
) -> Choice:
    """The candidate with the least error on a held-out share of the rows.

    Args:
        key: decides the held-out rows and the fits.
        x: [n, m] training rows.
        y: [n] or [n, c] their targets.
        candidates: options to try.
        share: of the rows that are held out.
        error: (prediction, target) -> float.
        grow_steps: steps of a growth round in a trial, where fewer than in the fit are enough to tell.
        final_steps: likewise of the last round.

    Cost: one fit per candidate.
    """
    fit_rows, held = hold_out(key, len(x), share)
    errors = []
    for each in candidates:
        trial = each._replace(
            grow_steps=each.grow_steps if grow_steps is None else grow_steps,
            final_steps=each.final_steps if final_steps is None else final_steps,
            n_max=min(each.n_max, len(fit_rows)),
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConditioningWarning)  # a trial's error tells it
                model, _ = fit_lab_rbf(key, x[fit_rows], y[fit_rows], trial)
        except np.linalg.LinAlgError:
            errors.append(float("inf"))
            continue
        errors.append(error(predict(model, x[held]), y[held]))
    return Choice(candidates[int(np.argmin(errors))], tuple(errors))


def choose_size(
    key: PRNGKeyArray, x: np.ndarray, y: np.ndarray, options: FitOptions, *, share: float = 0.2
) -> FitOptions:
    """Options that stop growing, and training, where the error on a held-out share was least.

    On noisy targets a support that goes on growing fits the noise; the rounds of one fit on the other rows show where.

    Args:
        key: decides the held-out rows and the fit.
        x: [n, m] training rows.
        y: [n] or [n, c] their targets.
        options: of the whole fit.
        share: of the rows that are held out.

    Returns:
        `options` with `n_init`, `n_max`, and `final_steps` 0 unless the last, long round was best.

    Cost: one fit.
    """
    rest, held = hold_out(key, len(x), share)
    first = options.n_init if options.n_init is not None else max(1, options.n_max // 3)
    trial = options._replace(n_init=min(first, len(rest)), n_max=min(options.n_max, len(rest)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        _, state = fit_lab_rbf(key, x[rest], y[rest], trial, watched=(x[held], y[held]))
    best = min(range(len(state.history)), key=lambda i: state.history[i]["watched_mse"])
    if best == len(state.history) - 1:
        return options._replace(n_init=first)
    return options._replace(n_init=first, n_max=max(first, state.history[best]["n"]), final_steps=0)


def with_ridge(model: LabRbfModel, ridge: float) -> LabRbfModel:
    """The same support and bandwidths solved with another ridge."""
    solved = fit_support(model.theta, model.support_x, model.support_y, ridge, model.objective)
    return model.replace(coef=np.asarray(solved.coef), intercept=np.asarray(solved.intercept))


def leave_one_out_ridge(model: LabRbfModel, ridges: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """The ridge with the least leave-one-out error over the support, at the model's bandwidths; no further training.

    The support of a residual-driven growth holds the hard rows, so the error itself is pessimistic; it orders ridges.

    Returns:
        the ridge, and the mean squared leave-one-out residual of each (scaled units).

    Cost: one LU with n right-hand sides per ridge.
    """
    gram = jnp.asarray(support_gram(model))
    centred = jnp.asarray(model.support_y) - model.intercept
    errors = tuple(float(jnp.mean(jnp.square(leave_one_out(gram, centred, ridge)))) for ridge in ridges)
    return ridges[int(np.nanargmin(errors))], errors
