"""A run that depends on everything a state holds, on any mesh: shared by test_elastic.py and two_processes.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.data import feed
from clujax.training import batch_sharding, fit, init_state, make_train_step, shardings

STEPS = 24
draw = np.random.default_rng(0)
COLUMNS = {"x": draw.normal(size=(37, 8)).astype(np.float32), "y": draw.integers(0, 4, 37).astype(np.int32)}


def masked():
    """A mask that lives in the optimizer's state, as saliency masks do."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 3 > 0, params),
        lambda updates, mask, params=None: (jax.tree.map(jnp.multiply, updates, mask), mask),
    )


TX = optax.chain(optax.sgd(0.2, momentum=0.9), masked(), optax.ema(0.9))


def loss_fn(params, stats, batch, key):
    hidden = batch["x"] @ params["w1"]
    mean, var = hidden.mean(0), hidden.var(0)
    stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
    hidden = jax.nn.relu((hidden - mean) / jnp.sqrt(var + 1e-2)) * jax.random.bernoulli(key, 0.8, hidden.shape)
    logits = hidden @ params["w2"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss + 0.01 * jnp.sum(hidden.mean(0) * stats["mean"]), (stats, {})


def fresh():
    keys = jax.random.split(jax.random.key(0))
    params = {"w1": jax.random.normal(keys[0], (8, 16)) / 3, "w2": jax.random.normal(keys[1], (16, 4)) / 4}
    return init_state(params, {"mean": jnp.zeros(16), "var": jnp.ones(16)}, TX, jax.random.key(1, impl="rbg"))


def fresh_on(mesh):
    """The state before step 0, born where it is to lie: no process need hold all of it."""
    return jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh), mesh))()


def make_step(mesh):
    return make_train_step(loss_fn, TX, mesh=mesh)


def batches(mesh):
    return feed(COLUMNS, 8, jax.random.key(5), sharding=None if mesh is None else batch_sharding(mesh))


def run(mesh, checkpoints, num_steps):
    """The state after `num_steps`, trained on a mesh (None: one device) from whatever checkpoint there is."""
    state = fresh() if mesh is None else fresh_on(mesh)
    return fit(make_step(mesh), state, batches(mesh), num_steps, checkpoints=checkpoints, checkpoint_every=7)[0]
