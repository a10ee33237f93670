"""One optimizer step as a compiled function of (state, batch)."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from clujax.training.sharding import (
    Rules,
    activations_on,
    batch_shardings,
    laid_out,
    shard,
    shard_batch,
    shardings,
)
from clujax.training.state import TrainState


def make_train_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    donate: bool = True,
    beside: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
    """Compile `loss_fn` and `tx` to `step(state, batch, **extra) -> (state, metrics)`.

    The step's randomness is `fold_in(state.key, state.step)`, so it depends on neither the mesh nor a restart. `extra`
    goes to `tx.update`. Python ints, bools, strings and functions among it are compile-time constants (one compilation
    for each value, as a `phase` wants); floats and arrays are traced (no recompilation when they change).

    Args:
        loss_fn: `loss_fn(params, stats, batch, key) -> (scalar loss, (new_stats, metrics))`, metrics a dict of scalars.
        tx: the optimizer; transformations with and without extra arguments both serve.
        mesh: when given, the state is laid out by `rules`, the batch by rows, and XLA inserts the collectives. Means
            over the batch, BatchNorm's among them, are then means over the global batch.
        rules: see `shardings`.
        donate: reuse the memory of the incoming state, which cannot be used after the call.
        beside: further losses of the same form; each one's gradient, at the same parameters, reaches `tx.update` as the
            extra argument of its name.

    Returns:
        The step. Its metrics are those of `loss_fn` plus `loss`, `grad_norm` (of the raw gradient), and `finite`:
        whether both are. `step.jitted` is the compiled function inside (`_cache_size()`), and `step.lower(state, batch,
        **extra)` lowers it for arrays or shapes on the step's mesh, whose devices need not be here: nothing is computed.

    Cost: one gradient of `loss_fn`, one of each loss beside it, and one `tx.update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from clujax.training import init_state, make_train_step
        >>> def loss_fn(params, stats, batch, key):
        ...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), (stats, {})
        >>> tx = optax.sgd(0.1)
        >>> step = make_train_step(loss_fn, tx)
        >>> state = init_state({"w": jnp.zeros(2)}, {}, tx, jax.random.key(0))
        >>> state, metrics = step(state, {"x": jnp.eye(2), "y": jnp.ones(2)})
        >>> float(metrics["loss"]), int(state.step)
        (1.0, 1)
    """
    return _compile(_one_step(loss_fn, tx, beside or {}), mesh, rules, donate, leading=0)


def make_block_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    donate: bool = True,
) -> Callable[..., tuple[TrainState, dict]]:
    """Compile several steps to one call: `block(state, batches, **extra)` scans over the leading axis of `batches`.

    The trajectory is that of `make_train_step`; metrics come back with the leading axis. It saves dispatch on
    accelerators and is slow on CPU, where convolutions inside a scan lose their fast path (`default_block`). Arguments,
    result and cost per step as in `make_train_step`.
    """
    one = _one_step(loss_fn, tx, {})

    def block(state: TrainState, batches: PyTree, extra: dict) -> tuple[TrainState, dict]:
        return jax.lax.scan(lambda carry, batch: one(carry, batch, extra), state, batches)

    return _compile(block, mesh, rules, donate, leading=1)


def default_block(platform: str | None = None) -> int:
    """Say how many steps one call should hold on a platform, by default this one: 1 on CPU, 16 on accelerators."""
    return 1 if (platform or jax.default_backend()) == "cpu" else 16


def _one_step(
    loss_fn: Callable[..., Any], tx: optax.GradientTransformation, beside: Mapping[str, Callable[..., Any]]
) -> Callable[..., tuple[TrainState, dict]]:
    tx = optax.with_extra_args_support(tx)

    def one(state: TrainState, batch: PyTree, extra: dict) -> tuple[TrainState, dict]:
        key, extra = jax.random.fold_in(state.key, state.step), dict(extra)
        (loss, (stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.stats, batch, key
        )
        for i, (name, other) in enumerate(beside.items(), 1):
            (value, (stats, more)), extra[name] = jax.value_and_grad(other, has_aux=True)(
                state.params, stats, batch, jax.random.fold_in(key, i)
            )
            metrics = metrics | more | {f"{name}/loss": value}
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        # No norm of the update: XLA could not fuse the update into the parameters then (12 % of an MLP step on CPU).
        norm = optax.tree.norm(grads)
        told = {"loss": loss, "grad_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, stats, opt_state, state.step + 1, state.key), metrics | told

    return one


def _compile(
    function: Callable[..., tuple[TrainState, dict]], mesh: Mesh | None, rules: Rules | None, donate: bool, leading: int
) -> Callable[..., tuple[TrainState, dict]]:
    donated = ("state",) if donate else ()

    def call(state: TrainState, batch: PyTree, traced: dict, constant: tuple) -> tuple[TrainState, dict]:
        with activations_on(mesh):
            new, metrics = function(state, batch, traced | dict(constant))
        if mesh is not None:
            # Without it XLA may choose another layout for the result, and the next call would compile again.
            new = jax.lax.with_sharding_constraint(new, shardings(new, mesh, rules))
        return new, metrics

    jitted = jax.jit(call, static_argnames=("constant",), donate_argnames=donated)

    def step(state: TrainState, batch: PyTree, **extra: Any) -> tuple[TrainState, dict]:
        if mesh is not None:
            batch = shard_batch(batch, mesh, leading=leading)
            if getattr(state.step.sharding, "mesh", None) != mesh:
                state = shard(state, mesh, rules)
        return jitted(state, batch, *_told_apart(extra))

    def lower(state: TrainState, batch: PyTree, **extra: Any) -> jax.stages.Lowered:
        if mesh is not None:
            state = laid_out(state, shardings(state, mesh, rules))
            batch = laid_out(batch, batch_shardings(batch, mesh, leading=leading))
        return jitted.lower(state, batch, *_told_apart(extra))

    step.jitted, step.lower = jitted, lower
    return step


def _told_apart(extra: dict) -> tuple[dict, tuple]:
    """Extra arguments that are traced, and those that are constants of the program."""
    constant = sorted(((k, v) for k, v in extra.items() if _is_constant(v)), key=operator.itemgetter(0))
    return {k: v for k, v in extra.items() if not _is_constant(v)}, tuple(constant)


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str) or callable(value)
