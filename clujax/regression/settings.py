"""Names in configs and estimators become functions here, once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from clujax.errors import ConfigError
from clujax.geometry.kernels import gaussian, laplacian
from clujax.regression import bandwidths, selection, solve
from clujax.regression.bandwidths import Objective, adam
from clujax.regression.fit import FitOptions

PROFILES = {"laplacian": laplacian, "gaussian": gaussian}
LOSSES = {name: getattr(bandwidths, name) for name in ("mse", "sse", "rmse", "mae", "rsse")}
SOLVERS = {"lu": solve.lu, "gmres": solve.gmres, "normal_cg": solve.normal_cg}
BANDWIDTHS = {
    "local": bandwidths.LOCAL,
    "local_positive": bandwidths.POSITIVE,
    "local_scalar": bandwidths.LOCAL_SCALAR,
    "ard": bandwidths.ARD,
    "scalar": bandwidths.SCALAR,
}
STARTS = {"stratified": selection.stratified, "per_class": selection.per_class, "random": selection.random_start}
GROWTHS = {
    "residual": selection.largest_residual,
    "random": selection.random_growth,
    "misclassified": selection.misclassified,
    "published": selection.published_rule,
}


def named(table: Mapping[str, Any], value: str | Callable, what: str) -> Any:
    """The function of a name; what is no text is taken as it is.

    Raises:
        ConfigError: a name that is none; the options are listed.
    """
    if not isinstance(value, str):
        return value
    if value not in table:
        raise ConfigError(f"{what} is {value!r}; expected one of {', '.join(table)}, or a function.")
    return table[value]


def fit_options(
    *,
    kernel: str | Callable = "laplacian",
    loss: str | Callable = "mse",
    bandwidth_mode: str | Any = "local",
    solver: str | Callable = "lu",
    fit_intercept: bool = True,
    selection: str | Callable = "residual",
    start: str | Callable = "stratified",
    learning_rate: float = 1e-2,
    final_learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
    **fields: Any,
) -> FitOptions:
    """Options of a fit from names and numbers; `fields` are those of `FitOptions`.

    Args:
        kernel: a name of `PROFILES` or a function of the squared scaled distance.
        loss: a name of `LOSSES` or a function (prediction, target) -> scalar.
        bandwidth_mode: a name of `BANDWIDTHS` or a `Bandwidths`.
        solver: a name of `SOLVERS` or a function (matrix, right side) -> solution.
        fit_intercept: subtract the mean of the support's targets before the solve.
        selection: a name of `GROWTHS` or a rule (rng, pool, count) -> rows.
        start: a name of `STARTS` or a rule (rng, targets, count) -> rows.
        learning_rate: of Adam, after a clip of the gradient's norm at 10.
        final_learning_rate: of the last round, where another.
        optimizer: any optax transformation instead of Adam.
        **fields: other fields of `FitOptions`.

    Raises:
        ConfigError: an unknown name.
    """
    objective = Objective(
        profile=named(PROFILES, kernel, "kernel"),
        loss=named(LOSSES, loss, "loss"),
        bandwidths=named(BANDWIDTHS, bandwidth_mode, "bandwidth_mode"),
        solve=named(SOLVERS, solver, "solver"),
        fit_intercept=fit_intercept,
    )
    for name, rate in (("learning_rate", learning_rate), ("final_learning_rate", final_learning_rate)):
        if rate is not None and not rate > 0:
            raise ConfigError(f"{name} is {rate}; expected a number above 0.")
    final = learning_rate if final_learning_rate is None else final_learning_rate
    return FitOptions(
        objective=objective,
        grow=named(GROWTHS, selection, "selection"),
        start=named(STARTS, start, "start"),
        grow_tx=adam(learning_rate) if optimizer is None else optimizer,
        final_tx=adam(final) if optimizer is None else optimizer,
        **fields,
    )


def epochs(count: float, rows: int, batch_size: int) -> int:
    """Steps of so many passes over the rows."""
    return max(1, round(count * -(-rows // batch_size)))


def key_of(seed: int) -> jax.Array:
    """The typed key of a seed."""
    return jax.random.key(seed)
