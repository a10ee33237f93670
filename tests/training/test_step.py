"""The compiled step: what it computes, when it compiles, and that donation leaves the caller's trees alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.training import default_block, init_state, make_block_step, make_train_step


def loss_fn(params, stats, batch, key):
    noise = 0.1 * jax.random.normal(key, batch["y"].shape)
    error = batch["x"] @ params["w"] + params["b"] - batch["y"] + noise
    return jnp.mean(error**2), ({"seen": stats["seen"] + 1}, {"bias": params["b"]})


def batch_at(step):
    keys = jax.random.split(jax.random.key(100 + step))
    return {"x": jax.random.normal(keys[0], (8, 3)), "y": jax.random.normal(keys[1], (8,))}


PARAMS, STATS = {"w": jnp.arange(3.0), "b": jnp.zeros(())}, {"seen": jnp.zeros((), jnp.int32)}


def test_step_is_the_written_out_optax_update():
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    step = make_train_step(loss_fn, tx)
    state = init_state(PARAMS, STATS, tx, jax.random.key(7))
    params, stats, opt_state = PARAMS, STATS, tx.init(PARAMS)
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(7), i)
        (loss, (stats, _)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, batch_at(i), key)
        updates, opt_state = tx.update(grads, opt_state, params)
        bias, params = params["b"], optax.apply_updates(params, updates)
        state, metrics = step(state, batch_at(i))
        chex.assert_trees_all_close(
            (metrics["loss"], metrics["grad_norm"], metrics["bias"]),
            (loss, optax.global_norm(grads), bias),
            rtol=1e-5,
        )
        assert metrics["finite"]
    chex.assert_trees_all_close((state.params, state.stats), (params, stats), rtol=1e-5)
    assert int(state.step) == 3


def test_donation_spares_the_callers_trees_and_reuses_the_state():
    # Keeps the very arrays of params in its state, as slow weights do: donated twice unless init_state copies.
    keeper = optax.GradientTransformation(lambda params: params, lambda updates, state, params=None: (updates, state))
    tx, key = optax.chain(optax.sgd(0.1), keeper), jax.random.key(0)
    before = init_state(PARAMS, STATS, tx, key)
    make_train_step(loss_fn, tx)(before, batch_at(0))
    assert before.params["w"].is_deleted()
    assert not PARAMS["w"].is_deleted()
    jax.random.key_data(key)
    kept = init_state(PARAMS, STATS, tx, key)
    make_train_step(loss_fn, tx, donate=False)(kept, batch_at(0))
    assert not kept.params["w"].is_deleted()


def test_extra_arguments_reach_the_optimizer_and_compile_once_for_each_phase(compilations):
    def update(updates, state, params=None, *, phase, value, **extra):
        # A Python branch: works only when phase is a compile-time constant.
        return jax.tree.map(lambda g: -value * g if phase == 1 else -g, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    step = make_train_step(loss_fn, tx)
    state = init_state(PARAMS, STATS, tx, jax.random.key(0))
    batches = [batch_at(i) for i in range(12)]
    before = compilations()
    for i, batch in enumerate(batches):
        old = jax.device_get(state.params)
        state, metrics = step(state, batch, phase=i % 2, value=0.01 * i)
        assert compilations() == before + min(i + 1, 2)
        expected = float(metrics["grad_norm"]) * (0.01 * i if i % 2 else 1)
        new = jax.device_get(state.params)
        moved = np.sqrt(sum(np.sum((new[name] - old[name]) ** 2) for name in old))
        assert moved == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_block_has_the_trajectory_of_single_steps():
    tx = optax.adam(0.05)
    one, block = make_train_step(loss_fn, tx), make_block_step(loss_fn, tx)
    a = init_state(PARAMS, STATS, tx, jax.random.key(1))
    b = init_state(PARAMS, STATS, tx, jax.random.key(1))
    losses = []
    for i in range(4):
        a, metrics = one(a, batch_at(i))
        losses.append(metrics["loss"])
    b, stacked = block(b, jax.tree.map(lambda *x: jnp.stack(x), *[batch_at(i) for i in range(4)]))
    chex.assert_trees_all_close(stacked["loss"], jnp.stack(losses), rtol=1e-5)
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-5)
    assert int(b.step) == 4
    assert default_block() == (1 if jax.default_backend() == "cpu" else 16)


def test_non_finite_gradients_are_flagged():
    tx = optax.sgd(0.1)
    step = make_train_step(lambda p, s, b, k: (jnp.sum(jnp.sqrt(p["w"])), (s, {})), tx)
    _, metrics = step(init_state({"w": jnp.zeros(2)}, {}, tx, jax.random.key(0)), {})
    assert jnp.isfinite(metrics["loss"])  # the loss is fine, its gradient is not
    assert not metrics["finite"]


def test_untyped_key_is_refused():
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        init_state.__wrapped__(PARAMS, STATS, optax.sgd(1.0), jax.random.PRNGKey(0))
