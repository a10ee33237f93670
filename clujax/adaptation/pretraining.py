"""The start that adapters and pools are made from where no pretrained weights are at hand."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import data, models
from clujax.errors import ConfigError

Columns = Mapping[str, Any]
Loss = Callable[[PyTree, Columns, PRNGKeyArray], tuple[Array, dict]]


def pretrained(
    network: models.Classifier,
    columns: Columns,
    settings: ConfigDict,
    key: PRNGKeyArray,
    progress: Progress | None = None,
) -> PyTree:
    """A network trained on columns x, y with Adam: `epochs`, `batch_size`, `learning_rate` of `settings`.

    Raises:
      ConfigError: the network has BatchNorm.
    """
    params, stats = network.init(key, jnp.asarray(columns["x"][:1]))
    if jax.tree.leaves(stats):
        raise ConfigError("model keeps statistics of its inputs (BatchNorm); give one without: mlp, cnn, vit.")
    return descended(loss_of(network), params, columns, settings, key, progress)


def descended(
    loss: Loss,
    params: PyTree,
    columns: Columns,
    settings: ConfigDict,
    key: PRNGKeyArray,
    progress: Progress | None = None,
) -> PyTree:
    """Parameters after `settings.epochs` of Adam on batches of columns; cost: one gradient a step.

    Args:
      loss: `loss(params, batch, key) -> (scalar, dict)`.
      params: to begin at.
      columns: of one length.
      settings: epochs, batch_size, learning_rate.
      key: of the order of rows and of the loss.
      progress: shows a bar.
    """
    rows = len(jax.tree.leaves(columns)[0])
    batch_at = data.resident(columns, settings.batch_size, jax.random.fold_in(key, 1))
    steps = max(1, round(settings.epochs * rows / settings.batch_size))
    tx = optax.adam(settings.learning_rate)

    @jax.jit
    def step(carry: tuple, batch: Columns, key: PRNGKeyArray) -> tuple:
        params, state = carry
        gradient = jax.grad(lambda p: loss(p, batch, key)[0])(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    carry = (params, tx.init(params))
    bar = progress.add_task("pretraining", total=steps) if progress else None
    for i in range(steps):
        carry = step(carry, batch_at(i), jax.random.fold_in(key, i + 2))
        if progress:
            progress.advance(bar)
    if progress:
        progress.remove_task(bar)
    return carry[0]


def loss_of(network: models.Classifier) -> Loss:
    """Mean cross-entropy of a batch in training mode, with the share that is right."""

    def loss(params: PyTree, batch: Columns, key: PRNGKeyArray) -> tuple[Array, dict]:
        logits, _ = network.apply(params, {}, batch["x"], train=True, key=key)
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(each), {"accuracy": jnp.mean(logits.argmax(-1) == batch["y"])}

    return loss
