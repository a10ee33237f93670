"""The composed transformation against the published loop, written again in plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.transforms import FORGET, REMAIN, adaptive_coefficients, cycle, sfron

RATE, MOMENTUM, DECAY, ASCENT = 0.05, 0.9, 5e-4, 3.0
DEFAULT = dict(steps=13, repair=5, exponent=0.5, masked=True, max_norm=0.05, slow_step=1.0, slow_every=1)
SETTINGS = {
    "default": {},
    "slow_per_iteration": dict(slow_step=0.5),
    "slow_per_cycle": dict(slow_step=0.5, slow_every=5, steps=15),
    "plain_ascent": dict(exponent=0.0, masked=False, max_norm=1e9, repair=1, steps=12),
    "frozen": dict(slow_step=0.0),
}


def rows(steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, 8, 3)), rng.normal(size=(steps, 8)), rng.normal(size=(steps, 8, 3))


def official(steps, repair, exponent, masked, max_norm, slow_step, slow_every):
    forget, target, remain = rows(steps)
    mask = np.array([True, False, True]) if masked else np.ones(3, bool)
    w, buffer = np.full(3, 0.5), np.zeros(3)
    before, path = w.copy(), []

    def sgd(w, buffer, g, rate):
        buffer = MOMENTUM * buffer + (g + DECAY * w)
        return w - rate * buffer, buffer

    for s in range(steps):
        fall = (1 + np.cos(np.pi * s / steps)) / 2
        if s % repair == 0:
            residual = forget[s] @ w - target[s]
            losses = 0.5 * residual**2
            c = 1 / np.maximum(losses, 1e-3) ** exponent
            g = -ASCENT * fall * ((c / c.sum() * residual) @ forget[s]) * mask
            g = g * min(1, max_norm / np.sqrt((g**2).sum()))
            w, buffer = sgd(w, buffer, g, RATE * fall)
        g = (remain[s] @ w - target[s]) @ remain[s] / len(target[s])
        w, buffer = sgd(w, buffer, g, RATE * fall)
        if (s + 1) % slow_every == 0:
            w = (1 - slow_step) * before + slow_step * w
            before = w.copy()
        path.append(w.copy())
    return np.array(path)


def remain_loss(params, x, y):
    return jnp.mean(0.5 * (x @ params["w"] - y) ** 2)


def forget_loss(params, x, y, exponent, weight):
    losses = 0.5 * (x @ params["w"] - y) ** 2
    return -weight * jnp.sum(adaptive_coefficients(losses, exponent) * losses)


def ours(steps, repair, exponent, masked, max_norm, slow_step, slow_every):
    forget, target, remain = jax.tree.map(jnp.asarray, rows(steps))
    params = {"w": jnp.full(3, 0.5, forget.dtype)}
    tx = sfron(
        optax.chain(optax.add_decayed_weights(DECAY), optax.trace(MOMENTUM)),
        mask={"w": jnp.array([True, False, True])} if masked else None,
        max_norm=max_norm,
        learning_rate=optax.cosine_decay_schedule(RATE, steps),
        slow_step=slow_step,
        slow_every=slow_every,
    )

    @functools.partial(jax.jit, static_argnames="phase")
    def step(params, state, g, phase):
        updates, state = tx.update(g, state, params, phase=phase)
        return optax.apply_updates(params, updates), state

    state, path = tx.init(params), []
    for s in range(steps):
        if s % repair == 0:
            weight = ASCENT * (1 + np.cos(np.pi * s / steps)) / 2
            g = jax.grad(forget_loss)(params, forget[s], target[s], exponent, weight)
            params, state = step(params, state, g, FORGET)
        params, state = step(params, state, jax.grad(remain_loss)(params, remain[s], target[s]), REMAIN)
        path.append(np.asarray(params["w"]))
    return np.array(path)


@pytest.mark.parametrize("name", SETTINGS)
def test_trajectory_is_the_published_one(name, x64):
    settings = DEFAULT | SETTINGS[name]
    np.testing.assert_allclose(ours(**settings), official(**settings), rtol=0, atol=1e-12)


def test_trajectory_in_single_precision():
    np.testing.assert_allclose(ours(**DEFAULT), official(**DEFAULT), rtol=0, atol=1e-6)


def test_no_outer_step_freezes_the_weights(x64):
    np.testing.assert_allclose(ours(**(DEFAULT | {"slow_step": 0.0})), 0.5, rtol=0, atol=1e-14)


def test_compiled_cycles_and_single_steps_agree_also_with_a_short_last_cycle():
    forget, target, remain = jax.tree.map(jnp.asarray, rows(7))
    tx = sfron(optax.trace(MOMENTUM), max_norm=1.0, learning_rate=optax.cosine_decay_schedule(RATE, 7), slow_step=0.5)

    def step(state, batch, phase):
        params, opt, stats = state
        loss = remain_loss if phase == REMAIN else lambda p, x, y: forget_loss(p, x, y, 0.5, ASCENT)
        value, g = jax.value_and_grad(loss)(params, *batch)
        updates, opt = tx.update(g, opt, params, phase=phase)
        return (optax.apply_updates(params, updates), opt, 0.9 * stats + batch[0].mean()), value

    steps = [functools.partial(step, phase=phase) for phase in (FORGET, REMAIN)]
    run, single = jax.jit(cycle(*steps)), [jax.jit(s) for s in steps]
    params = {"w": jnp.full(3, 0.5, jnp.float32)}
    whole = parts = (params, tx.init(params), jnp.zeros(()))
    for start, stop in [(0, 3), (3, 6), (6, 7)]:
        whole, (_, losses) = run(whole, (forget[start], target[start]), (remain[start:stop], target[start:stop]))
        assert losses.shape == (stop - start,)
        parts, _ = single[0](parts, (forget[start], target[start]))
        for s in range(start, stop):
            parts, _ = single[1](parts, (remain[s], target[s]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), whole, parts)
