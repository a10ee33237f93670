"""Flax NNX models as a `Classifier`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from clujax.models.classifier import Classifier


def from_nnx(model: Any, head: tuple[str, ...] = ("head",)) -> tuple[Classifier, PyTree, PyTree]:
    """Split an NNX model into a pure classifier, its parameters and its other state.

    The model object is left as it is: each call merges a copy, so that vmap over parameters, jvp of grad and jit need no
    care. Train and eval mode are set on the copy (`model.train()`, `model.eval()`). With a key, `apply` in training draws
    from it alone; without one, from the streams in `stats`, which move on.

    Args:
      model: an `nnx.Module` called as `model(inputs) -> logits`; `model.features(inputs)` is used if it has one.
      head: path of the last linear layer.

    Returns:
      `(classifier, params, stats)`; `params` is an `nnx.State` of the `nnx.Param` variables, `stats` of all others.
    """
    graph, params, stats = nnx.split(model, nnx.Param, ...)

    def merged(params, stats, train):
        copy = nnx.merge(graph, params, stats, copy=True)
        copy.train() if train else copy.eval()
        return copy

    def init(key, inputs):
        raise ValueError("this classifier was made by from_nnx; build a new nnx model to initialise it anew.")

    def apply(params, stats, inputs, *, train=False, key=None):
        if train and key is not None:
            stats = _reseed(stats, key)
        copy = merged(params, stats, train)
        logits = copy(inputs)
        if train:
            stats = nnx.split(copy, nnx.Param, ...)[2]
        return logits.astype(jnp.float32), stats

    def features(params, stats, inputs):
        copy = merged(params, stats, False)
        if not hasattr(copy, "features"):
            raise ValueError(f"{type(copy).__name__} has no method features(inputs).")
        return copy.features(inputs).astype(jnp.float32)

    return Classifier(init, apply, features, head), params, stats


def _reseed(stats, key):
    """Give every random stream its own key from the step's and count 0: dropout follows the step, not the call count."""
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    streams = iter(range(len(jax.tree.leaves(stats))))

    def fresh(variable):
        value = variable.get_value()
        if isinstance(variable, nnx.RngCount):
            return variable.replace(jnp.zeros_like(value))
        if isinstance(variable, nnx.RngKey):
            own = jax.random.fold_in(key, next(streams))
            return variable.replace(jax.random.split(own, value.shape) if value.shape else own)
        return variable

    return jax.tree.map(fresh, stats, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
