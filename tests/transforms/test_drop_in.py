"""Every transformation through everything that a user may put around it."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clujax.geometry import elementwise
from clujax.transforms import (
    FORGET,
    LEARN,
    REMAIN,
    mask_by_state,
    mask_updates,
    phased,
    random_weight_perturbation,
    scale_by_iteration_rate,
    sfron,
    slow_weights,
    ug_clu,
)


def keep(params):
    """A mask that leaves out the first entry of each leaf."""
    return jax.tree.map(lambda p: (jnp.arange(p.size) > 0).reshape(p.shape), params)


MAKE = {
    "mask_gradient": lambda p: mask_updates(keep(p), inner=optax.sgd(0.1, momentum=0.9)),
    "mask_restore": lambda p: mask_updates(keep(p), "update", restore=True, inner=optax.adam(0.1)),
    "phased": lambda p: phased(optax.adam(0.1), forget=optax.clip_by_global_norm(0.5), remain=optax.trace(0.5)),
    "rate": lambda p: scale_by_iteration_rate(optax.cosine_decay_schedule(0.1, 10)),
    "slow": lambda p: optax.chain(optax.sgd(0.1), slow_weights(0.5, 2)),
    "mask_by_state": lambda p: optax.chain(mask_by_state(), optax.sgd(0.1, momentum=0.9)),
    "ug_clu": lambda p: ug_clu(
        optax.trace(0.9),
        max_norm=0.5,
        learning_rate=optax.cosine_decay_schedule(0.1, 9),
        slow_step=0.5,
        slow_every=2,
    ),
    "sfron": lambda p: sfron(optax.trace(0.9), keep(p), 0.5, optax.cosine_decay_schedule(0.1, 9), 0.5, 2),
    "random_weight_perturbation": lambda p: random_weight_perturbation(optax.adam(0.1), 0.1, elementwise()),
}
every = pytest.mark.parametrize("name", MAKE)
PHASES = (FORGET, REMAIN, LEARN, FORGET, REMAIN)


def plain(dtype=jnp.float32):
    return {"a": jnp.linspace(-1, 1, 16, dtype=dtype).reshape(8, 2), "b": {"c": jnp.ones(8, dtype)}}


def grads(params, i):
    return jax.tree.map(lambda p: jnp.sin((i + 1) * p) + jnp.asarray(0.1, p.dtype), params)


def walk(tx, params, step=None):
    step = step or one(tx)
    state = tx.init(params)
    for i, phase in enumerate(PHASES):
        params, state = step(params, state, i, phase)
    return params, state


def one(tx):
    def step(params, state, i, phase):
        gradient = lambda p, _: grads(p, i)
        updates, state = tx.update(grads(params, i), state, params, phase=phase, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    return step


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


@every
def test_jit_scan_vmap_and_traced_phase_follow_the_eager_path_and_compile_once(name):
    params = plain()
    tx = MAKE[name](params)
    expected, _ = walk(tx, params)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(params)))
    step = jax.jit(one(tx))
    close(walk(tx, params, step)[0], expected)
    assert step._cache_size() == 1

    @jax.jit
    def scanned(params):
        carry = (params, tx.init(params))
        xs = (jnp.arange(len(PHASES)), jnp.array(PHASES))
        return jax.lax.scan(lambda c, x: (one(tx)(*c, *x), None), carry, xs)[0][0]

    close(scanned(params), expected)
    pair = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    close(jax.tree.map(lambda p: p[1], jax.vmap(scanned)(pair)), expected)


@every
def test_chain_masked_and_multi_transform(name):
    params = plain()
    tx = MAKE[name](params)
    expected, _ = walk(tx, params)
    close(walk(optax.chain(optax.identity(), tx), params)[0], expected)
    part, _ = walk(
        optax.chain(
            optax.masked(tx, {"a": False, "b": True}), optax.masked(optax.set_to_zero(), {"a": True, "b": False})
        ),
        params,
    )
    close(part["a"], params["a"])
    other = {"on": tx, "off": optax.set_to_zero()}
    close(walk(optax.multi_transform(other, {"a": "off", "b": "on"}), params)[0], part)


@every
def test_dtype_of_leaves_is_kept(name):
    params = plain(jnp.bfloat16)
    new, _ = jax.jit(lambda p: walk(MAKE[name](p), p))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}


@every
def test_eight_devices_give_the_same_and_state_shards_like_params(name):
    params = plain()
    tx = MAKE[name](params)
    split = NamedSharding(Mesh(np.array(jax.devices()), ("fsdp",)), P("fsdp"))
    new, state = walk(tx, jax.device_put(params, split), jax.jit(one(tx), static_argnums=3))
    close(new, walk(tx, params)[0], 1e-5)
    for leaf in jax.tree.leaves((new, state)):
        assert leaf.ndim == 0 or leaf.sharding.is_equivalent_to(split, leaf.ndim)


@every
def test_state_survives_saving(name):
    params = plain()
    tx = MAKE[name](params)
    _, state = walk(tx, params)
    back = serialization.from_bytes(tx.init(params), serialization.to_bytes(state))
    close(one(tx)(params, back, 5, REMAIN), one(tx)(params, state, 5, REMAIN), 0)


@every
def test_state_is_open_to_tree_map_params(name):
    params = plain()
    tx = MAKE[name](params)
    state = tx.init(params)
    close(optax.tree_utils.tree_map_params(tx, lambda leaf: leaf, state), state, 0)


def trees():
    key = jax.random.key(0)
    yield "linen", nn.Dense(3).init(key, jnp.ones((1, 2)))["params"]
    yield "nnx", nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    yield "equinox", eqx.filter(eqx.nn.MLP(2, 3, 4, 1, key=key), eqx.is_array)
    yield "array", jnp.ones(3)
    yield "zero_size", {"a": jnp.ones(3), "b": jnp.ones((0, 2))}


@pytest.mark.parametrize("kind", ["linen", "nnx", "equinox", "array", "zero_size"])
def test_any_tree(kind):
    params = dict(trees())[kind]
    new, _ = walk(MAKE["sfron"](params), params)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def test_settings_may_be_injected():
    params = plain()
    for build, make in ((slow_weights, {"step_size": 0.5}), (scale_by_iteration_rate, {"learning_rate": 0.1})):
        injected = optax.inject_hyperparams(build)(**make)
        close(walk(injected, params, jax.jit(one(injected)))[0], walk(build(**make), params)[0])
    arguments = dict(inner=optax.trace(0.9), mask=keep(params), max_norm=0.5, learning_rate=0.1, slow_step=0.5)
    injected = optax.inject_hyperparams(sfron)(**arguments)
    close(walk(injected, params, jax.jit(one(injected)))[0], walk(sfron(**arguments), params)[0])


def test_restore_keeps_masked_weights_to_the_bit_and_their_momenta_at_zero():
    params = plain()
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.1))
    new, state = walk(mask_updates(keep(params), "update", restore=True, inner=inner), params)
    assert new["a"][0, 0] == params["a"][0, 0]
    assert new["a"][0, 1] != params["a"][0, 1]
    assert state[1].trace["a"][0, 0] == 0
    moved, _ = walk(mask_updates(keep(params), inner=inner), params)
    assert moved["a"][0, 0] != params["a"][0, 0]


def test_masked_forget_step_is_momentum_and_decay_only():
    params, tx = jnp.ones(2), None
    tx = sfron(optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9)), jnp.array([False, True]), None, 0.1)
    state = tx.init(params)
    _, state = tx.update(jnp.ones(2), state, params, phase=REMAIN)
    updates, _ = tx.update(jnp.full(2, 100.0), state, params, phase=FORGET)
    np.testing.assert_allclose(updates[0], -0.1 * (0.9 * 1.1 + 0.1), rtol=1e-6)


def test_bad_input():
    params = plain()
    with pytest.raises(ValueError, match="phase"):
        walk(phased(optax.sgd(0.1)), params, lambda p, s, i, _: phased(optax.sgd(0.1)).update(p, s, p, phase=7))
    with pytest.raises(TypeError, match="phase"):
        phased(optax.sgd(0.1)).update(params, phased(optax.sgd(0.1)).init(params), params)
    for mask in (jax.tree.map(jnp.zeros_like, keep(params)), {"a": keep(params)["a"]}, params, keep(plain())["a"]):
        with pytest.raises(ValueError, match="mask"):
            mask_updates(mask).init(params)
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="step_size"):
            slow_weights(bad)
    with pytest.raises(ValueError, match="restore"):
        mask_updates(None, restore=True)


def test_an_injected_outer_step_may_change_from_and_to_one():
    params = plain()
    tx = optax.inject_hyperparams(slow_weights)(1.0)
    state = tx.init(params)
    step = jax.jit(lambda u, s: tx.update(u, s, params))
    updates, state = step(params, state)
    close(updates, params)
    state = state._replace(hyperparams={**state.hyperparams, "step_size": jnp.asarray(0.0)})
    _, later = step(params, state)
    assert jax.tree.structure(later) == jax.tree.structure(state)
