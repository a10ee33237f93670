"""One block of a soup: directions to its models, coefficients along them, and the soup that they give."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from clujax.geometry.mixing import Groups
from clujax.soups import adapters
from clujax.soups.directions import Normalize, Span, block_directions
from clujax.soups.loading import drained
from clujax.soups.pools import Pool
from clujax.soups.reference import on_simplex
from clujax.soups.resume import Progress
from clujax.soups.soup import as_model

POOL = "pool"  # the mesh axis over which the models of a block are divided


class Space(NamedTuple):
    """What is the same in all blocks.

    Attributes:
        pool: of K models.
        groups: which leaves share a coefficient.
        span: representation of the directions.
        closed: directions are the factors of all the pool's adapters, and no model is formed.
        normalize: lengths of directions.
        directions_dtype: of dense directions.
        dtypes: of a model's leaves.
        layout: where the rows of a block lie.
        rows: how many there are, empty ones included.
        put: places one model on all devices.
    """

    pool: Pool
    groups: Groups
    span: Span
    closed: bool
    normalize: Normalize
    directions_dtype: Any
    dtypes: tuple
    layout: NamedSharding | None
    rows: int
    put: Callable[[PyTree], PyTree]


class Origin(NamedTuple):
    """What directions are measured from.

    Attributes:
        theta: the point r.
        weights: its mixing weights.
        moves: it is the soup itself; else coefficients stay from visit to visit.
    """

    theta: PyTree
    weights: Float[np.ndarray, "K L"]
    moves: bool


class Found(NamedTuple):
    """What a block gives.

    Attributes:
        theta: the soup after it.
        before: coefficients [b, L] of its models when it began, as mixing weights.
        change: by how much they moved.
        losses: of every step.
        epochs: what `evaluate` said after each.
        live_bytes: of all arrays while it was learned.
        directed: some direction was not zero.
        finite: losses and coefficients were.
    """

    theta: PyTree
    before: Float[np.ndarray, "b L"]
    change: Float[np.ndarray, "b L"]
    losses: np.ndarray
    epochs: list[dict]
    live_bytes: int
    directed: bool
    finite: bool


def learn_block(
    space: Space,
    state: Progress,
    origin: Origin,
    block: Sequence[int],
    models: list[PyTree],
    held: Any,
    key: PRNGKeyArray,
    solve: Callable,
    *,
    extrapolate: bool = True,
    evaluate: Callable[[PyTree], dict[str, float]] | None = None,
    filled: Callable[[], None] = lambda: None,
) -> Found:
    """Learn the coefficients of a block's models; the state is only read.

    Args:
        space: see there.
        state: the soup so far.
        origin: see there.
        block: numbers of the models.
        models: the models, let go one after the other; none where the pool is closed.
        held: batches to learn on.
        key: of the block.
        solve: what `inner.prepare` gave.
        extrapolate: False holds all weights in [0, 1].
        evaluate: numbers of a model to record after every inner epoch.
        filled: called when the models are no longer needed.
    """
    directions, scale = _directions(space, origin, models)
    filled()
    scales = np.asarray(scale, np.float64)[: len(block)]
    before = np.where(scales > 0, 0 if origin.moves else state.alpha[block], 0)
    x0 = np.zeros(scale.shape)
    x0[: len(block)] = np.divide(before, scales, out=np.zeros_like(scales), where=scales > 0)
    center, mix = state.theta, space.span.mix
    if before.any():  # the contribution of all other models, which need not be loaded
        center = space.put(mix(center, directions, jnp.asarray(-x0, scale.dtype)))
    epochs: list[dict] = []

    def told(epoch: int, x: Array) -> None:
        if evaluate is not None:
            epochs.append({"epoch": epoch} | evaluate(as_model(mix(center, directions, x), space.dtypes)))

    inside = None if extrapolate else _on_scaled(on_simplex(state.weights, block), scale, len(block))
    x, losses = solve(center, directions, jnp.asarray(x0, scale.dtype), held, key, constrain=inside, told=told)
    live = sum(each.nbytes for each in jax.live_arrays())
    theta = space.put(mix(center, directions, x))
    change = np.asarray(x, np.float64)[: len(block)] * scales - before
    finite = bool(np.isfinite(losses).all() and jnp.isfinite(x).all())
    return Found(theta, before, change, losses, epochs, live, bool(scales.any()), finite)


def _directions(space: Space, origin: Origin, models: list[PyTree]) -> tuple[Any, Array]:
    """Directions from the origin, and the scale that makes coefficients of mixing weights."""
    if space.closed:
        return space.put(adapters.directions(space.pool, origin.weights, space.groups, space.normalize))
    return block_directions(
        origin.theta, drained(models), space.rows, space.groups, space.normalize,
        dtype=space.directions_dtype, layout=space.layout,
    )  # fmt: skip


def placed(mesh: Mesh | None, size: int) -> tuple[NamedSharding | None, int, Callable[[PyTree], PyTree]]:
    """Where the rows of a block lie, how many there must be, and how one model is put on all devices."""
    if mesh is None:
        return None, size, lambda tree: tree
    whole = NamedSharding(mesh, PartitionSpec())
    parts = mesh.shape[POOL] if POOL in mesh.axis_names else 1
    rows = NamedSharding(mesh, PartitionSpec(POOL if POOL in mesh.axis_names else None))
    return rows, -(-size // parts) * parts, lambda tree: jax.device_put(tree, whole)


def _on_scaled(constrain: Callable, scale: Array, rows: int) -> Callable:
    """A constraint on mixing weights as one on the coefficients of scaled directions."""
    alive, size = scale[:rows] > 0, jnp.where(scale[:rows] > 0, scale[:rows], 1)

    def on_x(x: Array) -> Array:
        y = constrain(x[:rows] * scale[:rows])
        return jnp.concatenate([jnp.where(alive, y / size, 0.0), x[rows:]]).astype(x.dtype)

    return on_x
