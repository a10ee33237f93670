"""A pool of models fine-tuned from one start in one vmapped program, each with its own recipe and its own rows."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, PRNGKeyArray, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import models

Columns = Mapping[str, Any]


def draw_recipes(settings: ConfigDict, seed: int) -> list[dict[str, float]]:
    """K recipes: learning rate and weight decay log-uniform between two bounds, smoothing and noise out of some values."""
    draw = np.random.default_rng(seed)
    between = lambda bounds: float(np.exp(draw.uniform(*np.log(bounds))))
    among = lambda values: float(draw.choice(values))
    return [
        {
            "learning_rate": between(settings.learning_rate),
            "weight_decay": between(settings.weight_decay),
            "label_smoothing": among(settings.label_smoothing),
            "noise": among(settings.noise),
        }
        for _ in range(settings.count)
    ]


def fine_tune(
    network: models.Classifier,
    start: PyTree,
    columns: Columns,
    settings: ConfigDict,
    recipes: list[dict[str, float]],
    key: PRNGKeyArray,
    progress: Progress | None = None,
) -> PyTree:
    """Train K models from `start` with AdamW and a cosine to 0; a step is one gradient of each.

    Args:
        network: of the models.
        start: parameters.
        columns: x in [0, 1] and y; each model sees `settings.rows` of them, drawn for it.
        settings: `config.pool`: rows, epochs, batch_size.
        recipes: of the models.
        key: for rows, orders and noise.
        progress: shows a bar.

    Returns:
        The models as one tree with a leading axis K.
    """
    count, rows, size = len(recipes), settings.rows, min(settings.batch_size, settings.rows)
    total, per_epoch = len(columns["y"]), settings.rows // size
    steps = max(1, round(settings.epochs * per_epoch))
    draw = np.random.default_rng(jax.device_get(jax.random.key_data(key)))
    few = np.stack([draw.permutation(total)[:rows] for _ in range(count)])
    told = {name: jnp.asarray([each[name] for each in recipes]) for name in recipes[0]}
    x, y = jnp.asarray(columns["x"]), jnp.asarray(columns["y"])
    optimizer = lambda recipe: optax.adamw(
        lambda step: recipe["learning_rate"] * 0.5 * (1 + jnp.cos(jnp.pi * step / steps)),
        weight_decay=recipe["weight_decay"],
    )

    def one(params: PyTree, state: PyTree, recipe: dict, index: Array, key: PRNGKeyArray, x: Array, y: Array) -> tuple:
        noise = recipe["noise"] * jax.random.normal(key, x[index].shape)

        def loss(params: PyTree) -> Array:
            logits, _ = network.apply(params, {}, x[index] + noise, train=True, key=key)
            target = optax.smooth_labels(jax.nn.one_hot(y[index], logits.shape[-1]), recipe["label_smoothing"])
            return optax.losses.softmax_cross_entropy(logits, target).mean()

        updates, state = optimizer(recipe).update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None, None)), donate_argnums=(0, 1))
    params = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], count, axis=0), start)
    state = jax.vmap(lambda p, recipe: optimizer(recipe).init(p))(params, told)
    bar = progress.add_task(f"fine-tune {count} models", total=steps) if progress else None
    for number in range(steps):
        if number % per_epoch == 0:
            order = np.stack([draw.permutation(mine) for mine in few])
        index = jnp.asarray(order[:, number % per_epoch * size :][:, :size])
        keys = jax.random.split(jax.random.fold_in(key, number), count)
        params, state = step(params, state, told, index, keys, x, y)
        if progress:
            progress.advance(bar)
    if progress:
        progress.remove_task(bar)
    return params


def write_pool(folder: pathlib.Path, stacked: PyTree) -> list[pathlib.Path]:
    """Write K models as orbax directories, over whatever an interrupted run left there."""
    count = len(jax.tree.leaves(stacked)[0])
    places = [folder / f"model{k:02d}" for k in range(count)]
    with ocp.StandardCheckpointer() as writer:
        for k, place in enumerate(places):
            writer.save(place.absolute(), {"params": jax.tree.map(lambda leaf, k=k: leaf[k], stacked)}, force=True)
    return places
