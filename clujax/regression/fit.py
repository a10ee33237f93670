"""The driver: scale, choose a support, learn bandwidths, grow by what is fitted worst, stop, solve a last time."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from clujax.geometry.kernels import lab_gram, lab_kernel
from clujax.regression.bandwidths import Objective, adam, fit_support, index_stream, train_bandwidths
from clujax.regression.scaling import Scaling, min_max
from clujax.regression.selection import (
    Pool,
    distinct,
    growth_size,
    largest_residual,
    row_groups,
    stratified,
)
from clujax.regression.solve import check_conditioning

# Supports are padded to multiples of this, rows of training data to powers of two: few shapes, few compiles.
BUCKET = 64
_CHUNK = 500

Values = Float[Array | np.ndarray, "..."]


class FitOptions(NamedTuple):
    """Settings of a fit; defaults are the authors' Parkinson demonstration.

    `bandwidth` is Σ_m θ_m² at the start. `tol_mse` stops growth once the mean squared error over the training rows
    (or the validation rows, if given), in squared units of y, is at most this. `clip` keeps predictions within the
    training targets' range.
    """

    objective: Objective = Objective()
    ridge: float = 1e-3
    n_max: int = 350
    n_init: int | None = None  # n_max // 3
    bandwidth: float = 30.0
    grow_steps: int = 500
    final_steps: int = 5000
    batch_size: int = 128
    grow_tx: optax.GradientTransformation = adam(1e-2)
    final_tx: optax.GradientTransformation = adam(1e-2)
    start: Callable = stratified
    grow: Callable = largest_residual
    least_growth: int = 10
    tol_mse: float | None = None
    exclude_support_from_batches: bool = False
    scale_y: bool = True
    clip: bool = True
    dtype: Any = np.float32


DEFAULTS = FitOptions()


@flax.struct.dataclass
class LabRbfModel:
    """A fitted predictor: support [n, m] and coefficients in scaled units, with the way back to the user's."""

    support_x: Any  # arrays; `Any` since jax also builds trees of other leaves
    support_y: Any
    theta: Any
    coef: Any
    intercept: Any
    x_scaling: Scaling
    y_scaling: Scaling
    y_low: Any
    y_high: Any
    objective: Objective = flax.struct.field(pytree_node=False)


class FitState(NamedTuple):
    """Where a fit stands between two rounds: arrays only, so that any checkpointer can hold it."""

    support: np.ndarray
    theta: np.ndarray
    round: int
    history: list


@jax.jit
def _evaluate(model: LabRbfModel, x: Values, mask: Values) -> Array:
    scaled = model.x_scaling.forward(x)
    kernel = lab_kernel(scaled, model.support_x, model.theta, profile=model.objective.profile)
    values = model.y_scaling.inverse((kernel * mask) @ model.coef + model.intercept)
    return jnp.clip(values, model.y_low, model.y_high)


def predict(model: LabRbfModel, x: Values, *, block_size: int = 4096, mesh: Mesh | None = None) -> np.ndarray:
    """Predictions [b] or [b, c] in original units, clipped to the training targets' range.

    Rows go through in blocks, so memory does not grow with b; a support is padded to its bucket, a last block to a
    power of two. With a mesh the rows of a block are divided over its first axis.

    Raises:
        ValueError: another number of features than in training.
    """
    _, features = model.support_x.shape
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(
            f"x has shape {x.shape}; this model was trained on {features} features: give [rows, {features}]"
        )
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected at least 1")
    padded, mask = _pad_model(model)
    dtype = model.support_x.dtype
    if mesh is not None:
        mesh = Mesh(mesh.devices, mesh.axis_names)
        devices = mesh.shape[mesh.axis_names[0]]
        block_size = -(-block_size // devices) * devices
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        padded, mask = jax.device_put((padded, mask), NamedSharding(mesh, PartitionSpec()))
    parts = []
    for begin in range(0, len(x), block_size):
        block = np.asarray(x[begin : begin + block_size], dtype)
        size = min(block_size, _power(len(block)))
        if mesh is not None:
            size = -(-size // devices) * devices
        filled = np.zeros((size, features), dtype)
        filled[: len(block)] = block
        placed = jax.device_put(filled, rows) if mesh is not None else filled
        parts.append(np.asarray(_evaluate(padded, placed, mask))[: len(block)])
    return np.concatenate(parts) if parts else np.zeros((0, *model.coef.shape[1:]), dtype)


def fit_lab_rbf(
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    options: FitOptions = DEFAULTS,
    *,
    support: np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    watched: tuple[np.ndarray, np.ndarray] | None = None,
    mesh: Mesh | None = None,
    state: FitState | None = None,
    callback: Callable | None = None,
) -> tuple[LabRbfModel, FitState]:
    """Fit by growing a support and learning its bandwidths (arXiv 2406.01435, algorithms 1 and 2).

    Args:
        key: decides batches and random choices; folded by round, so that a resumed fit equals an unbroken one.
        x: [n, m] rows, any real dtype.
        y: [n] or [n, c] targets.
        options: all settings.
        support: row numbers to start from, instead of `options.start`.
        validation: (x, y) on which `options.tol_mse` is judged.
        watched: (x, y) whose error every round records and nothing else sees.
        mesh: rows of mini-batches and of the residual pass are divided over its first axis.
        state: a state that `callback` was given: the fit goes on from there.
        callback: called as callback(state) after every growth round.

    Returns:
        model and final state; `state.support` are row numbers, `state.history` one dict per round.

    Raises:
        ValueError: input that cannot be fitted, before anything is compiled.
        numpy.linalg.LinAlgError: the system of the support is singular.
    """
    x, y, group = _checked(x, y, options, support)
    # axes of automatic sharding, whatever the caller's: the gather of a batch leaves its output to the compiler
    mesh = None if mesh is None else Mesh(mesh.devices, mesh.axis_names)
    if mesh is not None and options.batch_size % mesh.shape[mesh.axis_names[0]]:
        raise ValueError(
            f"batch_size {options.batch_size} does not divide over {mesh.shape[mesh.axis_names[0]]} devices"
        )
    n_distinct = int(group.max()) + 1
    n_max = options.n_max
    if n_max > n_distinct:
        warnings.warn(f"n_max {n_max} exceeds the {n_distinct} distinct rows of x; using {n_distinct}", stacklevel=2)
        n_max = n_distinct
    scale = min_max(x), (min_max(y) if options.scale_y else Scaling(np.zeros_like(y[0]), np.ones_like(y[0])))
    scaled_x, scaled_y = (s.forward(v).astype(options.dtype) for s, v in zip(scale, (x, y)))
    capacity = _power(len(x), 256)
    resident = [np.concatenate([v, np.zeros((capacity - len(v), *v.shape[1:]), v.dtype)]) for v in (scaled_x, scaled_y)]
    if mesh is not None:
        resident = jax.device_put(resident, NamedSharding(mesh, PartitionSpec()))
    else:
        resident = jax.device_put(resident)

    if state is None:
        rng = _rng(key, 0)
        if support is None:
            n_init = min(options.n_init if options.n_init is not None else max(1, n_max // 3), n_max)
            support = distinct(options.start(rng, y, n_init), group, np.array([], int), n_max)
        theta = np.full((len(support), x.shape[1]), np.sqrt(options.bandwidth / x.shape[1]), options.dtype)
        state = FitState(np.asarray(support), theta, 0, [])
    elif np.shape(state.theta) != (len(state.support), x.shape[1]) or not np.isfinite(state.theta).all():
        expected = (len(state.support), x.shape[1])
        raise ValueError(f"state.theta has shape {np.shape(state.theta)}; expected finite values of shape {expected}")
    final = False
    while True:
        round_key = jax.random.fold_in(key, 2 * state.round + final)
        steps, tx = (options.final_steps, options.final_tx) if final else (options.grow_steps, options.grow_tx)
        theta, losses = _train(round_key, state, resident, len(x), steps, tx, options, mesh)
        model = _model(x, y, scaled_x, scaled_y, theta, state.support, scale, options)
        prediction = predict(model, x, mesh=mesh)
        record = {
            "n": len(state.support),
            "train_mse": float(np.mean(np.square(prediction - y))),
            "loss": float(np.nanmean(losses[-50:])) if np.isfinite(losses[-50:]).any() else float("nan"),
            "losses": _curve(losses),
            "stopped_early": bool(np.isnan(losses).any()),
        }
        if record["stopped_early"]:
            warnings.warn(
                f"training with {record['n']} support points met a non-finite step; kept the last finite Θ",
                stacklevel=2,
            )
        judged = record["train_mse"]
        if validation is not None:
            judged = float(np.mean(np.square(predict(model, np.asarray(validation[0])) - validation[1])))
            record["validation_mse"] = judged
        if watched is not None:
            seen = predict(model, np.asarray(watched[0]), mesh=mesh)
            record["watched_mse"] = float(np.mean(np.square(seen - watched[1])))
            if y.ndim == 2:
                record["watched_accuracy"] = float(np.mean(seen.argmax(-1) == np.argmax(watched[1], -1)))
        history = [*state.history, record]
        if final:
            state = FitState(state.support, theta, state.round + 1, history)
            break
        reached = options.tol_mse is not None and judged <= options.tol_mse
        count = 0 if reached else growth_size(len(state.support), n_max, options.least_growth)
        new = np.array([], int)
        if count > 0:
            pool = Pool(prediction, y, np.asarray(scaled_y), group, state.support)
            new = np.asarray(options.grow(_rng(key, state.round + 1), pool, count))
        if len(new):
            theta = np.concatenate([theta, options.objective.bandwidths.new_rows(theta, len(new))])
            state = FitState(np.concatenate([state.support, new]), theta, state.round + 1, history)
            if callback is not None:
                callback(state)
            continue
        state = FitState(state.support, theta, state.round, history)
        if options.final_steps == 0 or reached:
            break
        final = True
    rcond = check_conditioning(support_gram(model), options.ridge, model.coef)
    state.history[-1]["rcond"] = rcond
    return model, state


def _train(key, state, resident, rows, steps, tx, options, mesh):
    n, m = state.theta.shape
    size = -(-n // BUCKET) * BUCKET
    bandwidths = options.objective.bandwidths
    mask = np.zeros(size, options.dtype)
    mask[:n] = 1
    raw = np.ones((size, m), options.dtype)
    raw[:n] = np.asarray(bandwidths.compress(state.theta))
    take = np.zeros(size, np.int32)
    take[:n] = state.support
    columns = resident[0][take], resident[1][take]
    pool = None
    if options.exclude_support_from_batches and len(np.unique(state.support)) < rows:
        pool = np.setdiff1d(np.arange(rows), state.support)
    stream = index_stream(key, rows, steps, options.batch_size, pool)
    opt_state, losses = tx.init(raw), []
    for begin in range(0, steps, _CHUNK):
        part = stream[begin : begin + _CHUNK]
        if mesh is not None:
            part = jax.device_put(part, NamedSharding(mesh, PartitionSpec(None, mesh.axis_names[0])))
            raw, opt_state = jax.device_put((raw, opt_state), NamedSharding(mesh, PartitionSpec()))
        raw, opt_state, each = train_bandwidths(
            raw, opt_state, part, *resident, *columns, mask, options.ridge, objective=options.objective, tx=tx
        )
        losses.append(np.asarray(each))
        if np.isnan(losses[-1][-1]):
            break
    theta = np.asarray(bandwidths.expand(jnp.asarray(raw), jnp.asarray(mask)))[:n]
    return theta, np.concatenate(losses) if losses else np.zeros(1)


def _curve(losses: np.ndarray, points: int = 50) -> list[float]:
    """Means over equal stretches of steps: the curve of a round in few numbers."""
    return [float(part.mean()) for part in np.array_split(losses, min(points, len(losses)))]


_solve_padded = jax.jit(fit_support, static_argnames="objective")
_gram_padded = jax.jit(lab_gram, static_argnames="profile")


def support_gram(model: LabRbfModel) -> np.ndarray:
    """Kernel matrix [n, n] of a model's support with itself."""
    padded, _ = _pad_model(model)
    gram = _gram_padded(padded.support_x, padded.theta, profile=model.objective.profile)
    return np.asarray(gram)[: len(model.coef), : len(model.coef)]


def _model(x, y, scaled_x, scaled_y, theta, support, scale, options):
    n = len(support)
    pad = -n % BUCKET
    rows = [np.concatenate([v, np.zeros((pad, *v.shape[1:]), v.dtype)]) for v in (scaled_x[support], scaled_y[support])]
    full = np.concatenate([theta, np.ones((pad, theta.shape[1]), theta.dtype)])
    mask = np.concatenate([np.ones(n, theta.dtype), np.zeros(pad, theta.dtype)])
    # solved again at the final Θ; the authors' code keeps the coefficients of the step before
    solved = _solve_padded(full, *rows, options.ridge, objective=options.objective, mask=mask)
    coef = np.asarray(solved.coef)[:n]
    if not np.isfinite(coef).all():
        gram = _gram_padded(rows[0], full, profile=options.objective.profile)
        check_conditioning(np.asarray(gram)[:n, :n], options.ridge, coef)
    cast = lambda v: np.asarray(v, options.dtype)
    low, high = (y.min(0), y.max(0)) if options.clip else (np.full_like(y[0], -np.inf), np.full_like(y[0], np.inf))
    return LabRbfModel(
        rows[0][:n], rows[1][:n], theta, coef, np.asarray(solved.intercept),
        Scaling(*map(cast, scale[0])), Scaling(*map(cast, scale[1])), cast(low), cast(high), options.objective,
    )  # fmt: skip


def _pad_model(model: LabRbfModel) -> tuple[LabRbfModel, np.ndarray]:
    n = len(model.support_x)
    pad = -n % BUCKET
    fill = lambda v: np.concatenate([v, np.zeros((pad, *v.shape[1:]), v.dtype)])
    mask = fill(np.ones(n, model.support_x.dtype))
    grown = {name: fill(np.asarray(getattr(model, name))) for name in ("support_x", "support_y", "theta", "coef")}
    return model.replace(**grown), mask


def _power(n: int, least: int = 64) -> int:
    return max(least, 1 << max(n - 1, 0).bit_length())


def _rng(key: PRNGKeyArray, fold: int) -> np.random.Generator:
    return np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), fold])


def _checked(x, y, options: FitOptions, support) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}; expected [rows, features] with at least one of each")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"y has shape {y.shape}; expected [{len(x)}] or [{len(x)}, outputs] for x of shape {x.shape}")
    dtype = np.dtype(options.dtype)
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError("dtype float64 needs jax_enable_x64: fit inside `with jax.enable_x64(True):`")
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype}; expected float32 or float64")
    for name, values in (("x", x), ("y", y)):
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{name} has dtype {values.dtype}; expected real numbers")
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} contains NaN or infinity in {np.sum(~np.isfinite(values))} places; drop or fill these"
            )
    if not options.ridge >= 0:
        raise ValueError(f"ridge is {options.ridge}; expected a number ≥ 0")
    if options.n_max < 1 or (options.n_init is not None and options.n_init < 1):
        raise ValueError(f"n_max is {options.n_max} and n_init {options.n_init}; expected at least 1")
    if not (np.isfinite(options.bandwidth) and options.bandwidth > 0):
        raise ValueError(f"bandwidth is {options.bandwidth}; expected > 0 (Θ = 0 is a stationary point)")
    if options.batch_size < 1 or options.grow_steps < 0 or options.final_steps < 0:
        raise ValueError("batch_size must be at least 1, grow_steps and final_steps at least 0")
    x, y = x.astype(np.float64), y.astype(np.float64)
    group = row_groups(x)
    if support is not None:
        support = np.asarray(support)
        if support.ndim != 1 or not len(support) or support.min() < 0 or support.max() >= len(x):
            raise ValueError(f"support must be row numbers in [0, {len(x)}), got {support!r}")
        if len(np.unique(group[support])) < len(support):
            if options.ridge == 0:
                unequal = len(np.unique(np.column_stack([group[support], y[support]]), axis=0)) > len(
                    np.unique(group[support])
                )
                why = "with different targets: interpolation is impossible" if unequal else "and ridge is 0: singular"
                raise ValueError(f"support has equal rows {why}; remove repeated rows or set ridge > 0")
            warnings.warn("support has equal rows; the system is close to singular", stacklevel=3)
    return x, y, group
