"""The value that a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class TrainState(NamedTuple):
    """Everything that the next step depends on: this and the rule `batch_at` determine the rest of a run."""

    params: Any
    stats: Any
    opt_state: Any
    step: Int[Array, ""]
    key: PRNGKeyArray


def init_state(params: PyTree, stats: PyTree, tx: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """Make the state before step 0.

    Every leaf is copied: a training step donates its state, and the caller's own `params`, `stats` and `key` stay
    usable (unlearning compares with the network it started from). For a network that does not fit on one device, call
    it (and the network's init) inside `jax.jit(born, out_shardings=shardings(jax.eval_shape(born, key), mesh, rules))`.

    Args:
        params: trainable arrays.
        stats: the other collections of the network (BatchNorm averages), `{}` when there are none.
        tx: the optimizer, whose `init` makes `opt_state`.
        key: typed key (`jax.random.key`); step `i` uses `fold_in(key, i)`.

    Returns:
        The state at step 0.

    Raises:
        TypeError: `key` is not a typed key.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> state = init_state({"w": jnp.ones(3)}, {}, optax.sgd(0.1), jax.random.key(0))
        >>> int(state.step)
        0
    """
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise TypeError(f"key must be a typed key from jax.random.key(seed), got {key!r:.80}")
    params, stats, key = _copy((params, stats, key))
    # Copied again: an optimizer may keep the very arrays of params (slow weights), and no buffer can be donated twice.
    opt_state = _copy(tx.init(params))
    return TrainState(params, stats, opt_state, jnp.zeros((), jnp.int32), key)


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
