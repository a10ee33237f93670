"""Small steps whose work can be counted by hand."""

import itertools

import jax
import jax.numpy as jnp
import optax

from clujax.training import Outline, init_state, make_train_step


def mlp(mesh, widths=(512, 256, 256, 128), rows=64, *, rules=None, tx=None, name="train"):
    """A bias-free MLP of matrix products only, with momentum; its matmul FLOPs are `matmul_flops`."""
    tx = tx or optax.sgd(0.1, momentum=0.9)

    def loss_fn(params, stats, batch, key):
        hidden = batch["x"]
        for weight in params:
            hidden = jnp.tanh(hidden @ weight)
        return jnp.mean(hidden**2), (stats, {})

    def born():
        params = [jnp.ones((a, b)) for a, b in itertools.pairwise(widths)]
        return init_state(params, {}, tx, jax.random.key(0))

    step = make_train_step(loss_fn, tx, mesh=mesh, rules=rules)
    batch = {"x": jax.ShapeDtypeStruct((rows, widths[0]), jnp.float32)}
    return Outline(name, step, jax.eval_shape(born), batch, rows, 10)


def stacked(mesh, width=64, depth=5, rows=32):
    """The same layer `depth` times in a scan."""
    tx = optax.sgd(0.1)

    def loss_fn(params, stats, batch, key):
        hidden, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), batch["x"], params["w"])
        return jnp.mean(hidden**2), (stats, {})

    step = make_train_step(loss_fn, tx, mesh=mesh)
    state = jax.eval_shape(lambda: init_state({"w": jnp.ones((depth, width, width))}, {}, tx, jax.random.key(0)))
    return Outline("stacked", step, state, {"x": jax.ShapeDtypeStruct((rows, width), jnp.float32)}, rows, 10)


def matmul_flops(widths, rows):
    """Forward, the gradient of each weight, and that of each input but the first."""
    products = [2 * rows * a * b for a, b in itertools.pairwise(widths)]
    return 3 * sum(products) - products[0]
