"""One tiny network in double precision, and the dense matrices to hold every product against."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree


class Net(NamedTuple):
    params: dict
    batch: dict
    outputs: object  # (params, batch) -> logits [B, C]
    losses: object  # (params, batch) -> [B]
    vector: dict

    def loss(self, params, batch=None):
        return jnp.mean(self.losses(params, self.batch if batch is None else batch))

    def flat(self, tree):
        return ravel_pytree(tree)[0]

    def tree(self, flat):
        return ravel_pytree(self.params)[1](flat)


def outputs(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"]["w"] + params["first"]["b"])
    return hidden @ params["head"]["w"] + params["head"]["b"]


def losses(params, batch):
    rows = jnp.arange(batch["y"].shape[0])
    return -jax.nn.log_softmax(outputs(params, batch))[rows, batch["y"]]


@jax.jit
def make(key):
    keys, normal = jax.random.split(key, 8), jax.random.normal
    params = {
        "first": {"w": normal(keys[0], (3, 8)), "b": normal(keys[1], (8,))},
        "head": {"w": normal(keys[2], (8, 4)), "b": normal(keys[3], (4,))},
    }
    batch = {"x": normal(keys[4], (16, 3)), "y": jax.random.randint(keys[5], (16,), 0, 4)}
    vector = {
        "first": {"w": normal(keys[6], (3, 8)), "b": jnp.linspace(-1.0, 1.0, 8)},
        "head": {"w": normal(keys[7], (8, 4)), "b": jnp.linspace(-1.0, 1.0, 4)},
    }
    return params, batch, vector


@functools.cache
def _net():
    params, batch, vector = make(jax.random.key(0))
    return Net(params, batch, outputs, losses, vector)


@pytest.fixture
def net(x64):
    return _net()


@functools.cache
def _hessian():
    net = _net()
    return jax.jit(jax.hessian(lambda flat: net.loss(net.tree(flat))))(net.flat(net.params))


@pytest.fixture
def hessian(x64):
    return _hessian()


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
