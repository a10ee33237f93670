import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clujax.models import from_nnx

X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(5, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def features(self, x):
        return nnx.relu(self.layer(x))

    def __call__(self, x):
        return self.head(self.features(x))


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.layer(x))))


class Dropped(nnx.Module):
    """Two dropouts on constants: what leaves the model shows both masks."""

    def __init__(self, rngs):
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        ones = jnp.ones((x.shape[0], 8))
        return self.scale * jnp.concatenate([self.first(ones), self.second(ones)], 1)


def leaves(tree):
    """Leaves as arrays that numpy can compare, keys as their data."""
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def test_a_stateless_model_gives_its_own_logits_features_and_head():
    model = Plain(nnx.Rngs(0))
    network, params, stats = from_nnx(model)
    assert leaves(stats) == []
    logits, after = network.apply(params, stats, X, train=True, key=jax.random.key(0))
    assert logits.dtype == jnp.float32
    assert leaves(after) == []
    np.testing.assert_allclose(logits, model(X), rtol=1e-5)
    head = functools.reduce(lambda tree, part: tree[part], network.head, params)
    features = network.features(params, stats, X)
    np.testing.assert_allclose(features @ head["kernel"][...] + head["bias"][...], logits, rtol=1e-5, atol=1e-6)


def test_what_it_cannot_do_is_said():
    network, params, stats = from_nnx(Normed(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="made by from_nnx"):
        network.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"Normed has no method features"):
        network.features(params, stats, X)


def test_batchnorm_stats_move_in_training_only_and_the_model_is_left_alone():
    model = Normed(nnx.Rngs(0))
    model.train()
    before = jax.tree.map(np.asarray, nnx.state(model))
    network, params, stats = from_nnx(model)
    calm, unmoved = network.apply(params, stats, X)
    busy, moved = jax.jit(functools.partial(network.apply, train=True))(params, stats, X)
    assert same(unmoved, stats)
    assert jax.tree.structure(moved) == jax.tree.structure(stats)
    mean = 0.1 * np.asarray(model.layer(X)).mean(0)
    np.testing.assert_allclose(moved["norm"]["mean"][...], mean, rtol=1e-4, atol=1e-6)
    assert not np.allclose(calm, busy)
    assert same(nnx.state(model), before)
    assert model.norm.use_running_average is False, "train mode was set on the caller's object"


def test_vmap_over_stacked_params_jit_and_jvp_of_grad():
    network, params, stats = from_nnx(Normed(nnx.Rngs(0)))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    together, moved = jax.vmap(lambda p: network.apply(p, stats, X, train=True))(stacked)
    for i, factor in enumerate((1, 2)):
        alone, alone_moved = network.apply(jax.tree.map(lambda leaf, f=factor: f * leaf, params), stats, X, train=True)
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moved["norm"]["var"][...][i], alone_moved["norm"]["var"][...], rtol=1e-4)

    loss = lambda p: jnp.sum(jax.nn.log_softmax(network.apply(p, stats, X)[0])[:, 0])
    product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1])
    u, v = (jax.tree.map(lambda p, f=f: f(p), params) for f in (jnp.ones_like, jnp.cos))
    dot = lambda a, b: sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert abs(dot(u, product(v))) > 1e-6
    np.testing.assert_allclose(dot(u, product(v)), dot(v, product(u)), rtol=1e-3)


def test_dropout_follows_the_key_of_the_step_alone():
    network, params, stats = from_nnx(Dropped(nnx.Rngs(0)))
    apply = jax.jit(functools.partial(network.apply, train=True))
    first, after = apply(params, stats, X, key=jax.random.key(1))
    again, _ = apply(params, after, X, key=jax.random.key(1))
    other, _ = apply(params, after, X, key=jax.random.key(2))
    np.testing.assert_array_equal(first, again, "the mask depends on how often the model was called before")
    assert not np.array_equal(first, other)
    assert jax.tree.structure(after) == jax.tree.structure(stats)
    calm, unmoved = network.apply(params, stats, X, key=jax.random.key(1))
    np.testing.assert_array_equal(calm, np.ones_like(calm))
    assert same(unmoved, stats)


def test_two_dropouts_of_one_shape_draw_different_masks():
    network, params, stats = from_nnx(Dropped(nnx.Rngs(0)))
    logits, _ = network.apply(params, stats, X, train=True, key=jax.random.key(1))
    assert not np.array_equal(logits[:, :8], logits[:, 8:])


def test_a_raw_key_serves_as_well_as_a_typed_one():
    network, params, stats = from_nnx(Dropped(nnx.Rngs(0)))
    typed, _ = network.apply(params, stats, X, train=True, key=jax.random.key(3))
    raw, after = network.apply(params, stats, X, train=True, key=jax.random.PRNGKey(3))
    np.testing.assert_array_equal(typed, raw)
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(stats)]


def test_without_a_key_the_streams_of_the_model_move_on():
    network, params, stats = from_nnx(Dropped(nnx.Rngs(0)))
    first, after = network.apply(params, stats, X, train=True)
    second, _ = network.apply(params, after, X, train=True)
    assert not np.array_equal(first, second)


def test_streams_split_for_vmap_keep_their_shape():
    class Split(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs.split(3)

        def __call__(self, x):
            return x + jax.vmap(jax.random.normal)(self.rngs.dropout.key[...])[:, None]

    network, params, stats = from_nnx(Split(nnx.Rngs(dropout=0)))
    logits, after = network.apply(params, stats, jnp.zeros((3, 2)), train=True, key=jax.random.key(0))
    assert len(np.unique(logits)) == 3
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, stats)
