"""Coefficients of a block by first-order steps: one model's gradient, then inner products with fixed directions."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from clujax.soups.directions import Span
from clujax.soups.soup import as_model

LossFn = Callable[[PyTree, Any, PRNGKeyArray], tuple[Float[Array, ""], Any]]
Constrain = Callable[[Float[Array | np.ndarray, "b L"]], Float[Array | np.ndarray, "b L"]]


def warmup_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """The official script's schedule of a block: 20 % linear warm-up to the rate, then half a cosine to zero.

    Step s < w = int(0.2·steps): rate·(s + 1)/w; then rate·½(1 + cos π(s − w)/(steps − w)).

    Example:
        >>> [round(float(warmup_cosine(1.0, 8)(s)), 3) for s in (0, 1, 2, 7)]
        [1.0, 1.0, 0.95, 0.05]
    """
    warmup = int(0.2 * steps)

    def schedule(count):
        rising = (count + 1) / max(warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * (count - warmup) / max(steps - warmup, 1)))
        return learning_rate * jnp.where(count < warmup, rising, falling)

    return schedule


adamw = functools.partial(optax.adamw, weight_decay=0.0)  # as the official command has it


class BlockState(NamedTuple):
    """What a step changes: coefficients x [b, L], the optimizer's state, and the key."""

    x: Float[Array | np.ndarray, "b L"]
    opt_state: Any
    key: PRNGKeyArray


class Descent(NamedTuple):
    """First-order steps on the coefficients of a block; optimizer and schedule begin anew in every block.

    Attributes:
        optimizer: makes an optax transformation from a schedule.
        learning_rate: with unit directions a distance in weight space, with raw ones a change of mixing weight.
        epochs: passes over the held-out batches per block.
        schedule: (learning_rate, steps) -> optax schedule.
        clip_norm: bound on the norm of the model's gradient before it is projected.
    """

    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = adamw
    learning_rate: float = 0.01
    epochs: int = 5
    schedule: Callable[[float, int], optax.Schedule] = warmup_cosine
    clip_norm: float | None = None

    def prepare(self, span: Span, loss_fn: LossFn, steps: int, dtypes: Sequence[Any]) -> Callable:
        """A function (center, directions, x, batches, key, constrain=, told=) -> (x, losses) for blocks of one shape.

        The step is compiled for the first block and serves all others: center, directions and batch are its arguments.
        """
        tx = self.optimizer(self.schedule(self.learning_rate, steps * self.epochs))
        step = make_block_step(span, loss_fn, tx, dtypes, self.clip_norm)

        def run(center, directions, x, batches, key, constrain=None, told=None):
            state, losses = BlockState(x, tx.init(x), key), []
            for epoch in range(self.epochs):
                for batch in batches:
                    state, loss = step(state, center, directions, batch)
                    if constrain is not None:
                        state = state._replace(x=constrain(state.x))
                    losses.append(loss)
                if told is not None:
                    told(epoch, state.x)
            return state.x, np.asarray(jax.device_get(losses), np.float64)

        run.step = step
        return run


def make_block_step(
    span: Span,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    dtypes: Sequence[Any],
    clip_norm: float | None = None,
) -> Callable[[BlockState, PyTree, Any, Any], tuple[BlockState, Float[Array, ""]]]:
    """The compiled step (state, center, directions, batch) -> (state, loss) on the coefficients of a block.

    One gradient of one model, 2·b·D operations for θ = c + Σ x·P (from the center every time: increments would drift) and
    2·b·D for ⟨g, P⟩. There is no graph through the pool.

    Args:
        span: the directions' representation.
        loss_fn: `loss_fn(params, batch, key) -> (loss, aux)`.
        tx: on the coefficients `[b, L]`.
        dtypes: of the leaves that the model is evaluated in; the center is float32 or wider.
        clip_norm: of the gradient, before the projection.
    """

    def step(state, center, directions, batch):
        key, now = jax.random.split(state.key)
        theta = as_model(span.mix(center, directions, state.x), dtypes)
        gradient = jax.value_and_grad(loss_fn, has_aux=True, allow_int=True)
        (loss, _), g = gradient(theta, batch, now)
        gx = span.project(g, directions)
        if clip_norm is not None:
            gx = gx * jnp.minimum(1.0, clip_norm / jnp.maximum(float_norm(g), 1e-12))
        updates, opt_state = tx.update(gx.astype(state.x.dtype), state.opt_state, state.x)
        return BlockState(optax.apply_updates(state.x, updates), opt_state, key), loss

    return jax.jit(step)


def held_out_loss(loss_fn: LossFn, dtypes: Sequence[Any]) -> Callable[[PyTree, Iterable[Any]], float]:
    """A function (θ, batches) -> the mean loss over batches weighted by their rows, compiled once."""

    @jax.jit
    def one(theta, batch):
        return loss_fn(as_model(theta, dtypes), batch, jax.random.key(0))[0]

    def mean(theta, batches):
        losses, rows = zip(*[(one(theta, batch), rows_of(batch)) for batch in batches])
        return float(np.average(np.asarray(jax.device_get(losses), np.float64), weights=rows))

    return mean


def rows_of(batch: Any) -> int:
    """Leading size of a batch; 1 where it has none."""
    shape = jnp.shape(jax.tree.leaves(batch)[0])
    return shape[0] if shape else 1


def float_norm(gradient: PyTree) -> Float[Array, ""]:
    """Euclidean norm of the entries that are no float0."""
    return optax.global_norm([g for g in jax.tree.leaves(gradient) if g.dtype != jax.dtypes.float0])
