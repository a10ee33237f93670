"""Learned-Soup: mixing weights on the simplex, learned with all K models in memory (Wortsman et al. 2022, appendix)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from clujax.geometry.mixing import mix, wide_dtype
from clujax.soups import statistics
from clujax.soups.batches import Batches, repeatable
from clujax.soups.descent import adamw
from clujax.soups.groups import Rule, leaf, make_groups
from clujax.soups.mehl import check_block
from clujax.soups.objective import Objective
from clujax.soups.pools import Pool, load_checked
from clujax.soups.soup import Soup, as_model, dtypes_of, streamed


class Simplex(NamedTuple):
    """How mixing weights are held on the simplex.

    Attributes:
        start: (K, L) -> raw values.
        weights: raw values -> weights [K, L], columns summing to 1.
        back: raw values after a step -> admissible ones.
    """

    start: Callable[[int, int], Array]
    weights: Callable[[Float[Array | np.ndarray, "K L"]], Float[Array | np.ndarray, "K L"]]
    back: Callable[[Float[Array | np.ndarray, "K L"]], Float[Array | np.ndarray, "K L"]]


softmax = Simplex(lambda k, n: jnp.zeros((k, n)), lambda raw: jax.nn.softmax(raw, axis=0), lambda raw: raw)
projected = Simplex(
    lambda k, n: jnp.full((k, n), 1 / k),
    lambda raw: raw,
    jax.vmap(optax.projections.projection_simplex, 1, 1),
)


def constant(learning_rate: float, steps: int) -> optax.Schedule:
    """The same rate at every step, as in the authors' code."""
    return optax.constant_schedule(learning_rate)


class LearnedState(NamedTuple):
    """Raw weights [K, L], the temperature β, the optimizer's state, the key."""

    raw: Float[Array | np.ndarray, "K L"]
    beta: Float[Array, ""]
    opt_state: Any
    key: PRNGKeyArray


def learned(
    pool: Pool,
    objective: Objective,
    batches: Batches,
    *,
    key: PRNGKeyArray,
    groups: Rule = leaf,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = adamw,
    learning_rate: float = 0.05,
    epochs: int = 5,
    schedule: Callable[[float, int], optax.Schedule] = constant,
    temperature: bool = True,
    simplex: Simplex = softmax,
    stats: statistics.Policy | None = None,
    evaluate: Callable[[PyTree], dict[str, float]] | None = None,
) -> Soup:
    """θ^l = Σ_k softmax(a^l)_k·θ_k^l, with the loss of outputs times a learned β; `groups.leaf` makes it Learned-Soup+.

    Memory: K·D floats and one model. Cost of a step: one gradient of one model, 4·K·D operations. β calibrates the outputs
    while learning; the soup is θ.

    Args:
        pool: K ≥ 2 models.
        objective: outputs and loss, between which β stands.
        batches: held-out batches, iterated anew in every epoch.
        key: for outputs that draw.
        groups: rule of which leaves share a weight.
        optimizer: makes an optax transformation of raw weights and β from a schedule.
        learning_rate: of the raw weights.
        epochs: passes over the batches.
        schedule: (learning_rate, steps) -> optax schedule.
        temperature: learn β; else it is 1.
        simplex: `softmax`, or `projected`: the weights themselves, projected after every step.
        stats: what becomes of BatchNorm statistics.
        evaluate: numbers of the soup to record after every epoch.

    Returns:
        The soup; history has one record: losses of all steps, β, records of epochs, bytes of live arrays.

    Raises:
        ValueError: as `clujax.soups.mehl.mehl`.
        FloatingPointError: the loss was not finite.
    """
    count, dtypes = check_block(len(pool), None), dtypes_of(pool)
    groups = make_groups(pool.struct, groups, statistics.frozen(pool.struct, stats))
    held = repeatable(batches, epochs)
    tx = optimizer(schedule(learning_rate, epochs * len(held)))
    fixed = statistics.start_weights(groups, count, range(count), stats)
    stacked, origin = stack(pool, groups.moves), streamed(pool, np.where(_frozen(groups), fixed, 0), groups)
    step = make_learned_step(objective, tx, groups, dtypes, simplex, temperature)
    raw, beta = simplex.start(count, len(groups.names)), jnp.ones(())
    state, losses, told = LearnedState(raw, beta, tx.init((raw, beta)), key), [], []
    for epoch in range(epochs):
        for batch in held:
            state, loss = step(state, origin, stacked, batch)
            losses.append(loss)
        if evaluate is not None:
            now = mix(origin, stacked, simplex.weights(state.raw), groups)
            told.append({"epoch": epoch} | evaluate(as_model(now, dtypes)))
    live = sum(each.nbytes for each in jax.live_arrays())
    losses = np.asarray(jax.device_get(losses), np.float64)
    if not np.isfinite(losses).all():
        raise FloatingPointError("the loss was not finite while the weights were learned; try a lower learning rate.")
    weights = simplex.weights(state.raw)
    params = as_model(mix(origin, stacked, weights, groups), dtypes)
    record = {"losses": losses.tolist(), "beta": float(state.beta), "epochs": told, "live_bytes": live}
    weights = np.where(_frozen(groups), fixed, np.asarray(weights, np.float64))
    return Soup(params if stats is None else stats.finish(params), weights, groups, [record])


def make_learned_step(
    objective: Objective, tx: optax.GradientTransformation, groups, dtypes: tuple, simplex: Simplex, temperature: bool
) -> Callable[[LearnedState, PyTree, PyTree, Any], tuple[LearnedState, Array]]:
    """The compiled step (state, origin, stacked models, batch) -> (state, loss)."""

    def step(state, origin, stacked, batch):
        key, now = jax.random.split(state.key)

        def loss(raw, beta):
            theta = as_model(mix(origin, stacked, simplex.weights(raw), groups), dtypes)
            return objective.loss(beta * objective.outputs(theta, batch, now), batch)

        value, (graw, gbeta) = jax.value_and_grad(loss, (0, 1))(state.raw, state.beta)
        free = state.raw, state.beta
        updates, opt_state = tx.update((graw, gbeta * temperature), state.opt_state, free)
        raw, beta = optax.apply_updates(free, updates)
        return LearnedState(simplex.back(raw), beta, opt_state, key), value

    return jax.jit(step)


def stack(pool: Pool, moves: Callable[[int], bool]) -> PyTree:
    """All models of a pool as one tree with a leading axis; leaves that do not move have rows without entries."""
    structs, structure = jax.tree.flatten(pool.struct)
    shapes = [(len(pool), *each.shape) if moves(i) else (len(pool), 0) for i, each in enumerate(structs)]
    rows = [jnp.zeros(shape, wide_dtype(each.dtype)) for shape, each in zip(shapes, structs)]
    constants: dict[str, np.ndarray] = {}
    for k in range(len(pool)):
        leaves = jax.tree.leaves(load_checked(pool, k, constants))
        rows = [_put(row, leaf, k) if moves(i) else row for i, (row, leaf) in enumerate(zip(rows, leaves))]
    return structure.unflatten(rows)


@functools.partial(jax.jit, donate_argnums=0)
def _put(row, leaf, k):
    return row.at[k].set(leaf.astype(row.dtype))


def _frozen(groups) -> np.ndarray:
    return np.isin(np.arange(len(groups.names)), groups.frozen)[None]
