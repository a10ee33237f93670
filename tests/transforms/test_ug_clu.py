"""Learn and forget steps through one optimizer: limits, and each rule in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.transforms import FORGET, LEARN, REMAIN, phased, sfron, ug_clu, with_masks

RATE = optax.cosine_decay_schedule(0.1, 6)
START = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.5, -0.25])}
MASK = jax.tree.map(lambda leaf: (jnp.arange(leaf.size) % 2 == 0).reshape(leaf.shape), START)


def gradient(i, params=START):
    return jax.tree.map(lambda p: jnp.cos((i + 1) * p) * 3, params)


def walk(tx, phases, state=None):
    params, state = START, tx.init(START) if state is None else state
    for i, phase in enumerate(phases):
        updates, state = tx.update(gradient(i, params), state, params, phase=phase)
        params = optax.apply_updates(params, updates)
    return params


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_without_learn_steps_it_is_sfron_to_the_bit():
    settings = {"max_norm": 0.7, "learning_rate": RATE, "slow_step": 0.5, "slow_every": 2}
    ours, theirs = ug_clu(optax.trace(0.9), **settings), sfron(optax.trace(0.9), mask=MASK, **settings)
    phases = (FORGET, REMAIN, REMAIN, FORGET, REMAIN)
    same(walk(ours, phases, with_masks(ours.init(START), forget=MASK)), walk(theirs, phases))


def test_without_forget_steps_it_is_plain_descent_on_both_sides():
    tx = ug_clu(optax.identity(), learning_rate=0.1)
    same(walk(tx, (LEARN, REMAIN) * 2), walk(optax.with_extra_args_support(optax.sgd(0.1)), (0,) * 4))


def test_a_learn_step_has_the_rate_of_the_iteration_that_it_opens():
    tx = ug_clu(optax.identity(), learning_rate=RATE)
    params = walk(tx, (LEARN, REMAIN, LEARN))
    expected, rates = START, (RATE(0), RATE(0), RATE(1))
    for i, rate in enumerate(rates):
        expected = jax.tree.map(lambda p, g, rate=rate: p - rate * g, expected, gradient(i, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


def test_both_gradients_in_one_step_are_masked_and_clipped_each_for_itself():
    tx = ug_clu(optax.identity(), max_norm=1.0, learning_rate=1.0)
    state = with_masks(tx.init(START), forget=MASK, learn=jax.tree.map(jnp.logical_not, MASK))
    forget, learn = gradient(0), jax.tree.map(lambda g: 100 * g, gradient(1))
    updates, _ = tx.update(forget, state, START, phase=FORGET, learn_gradient=learn)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    keep, parts = flat(MASK), []
    for values, kept in ((flat(forget), keep), (flat(learn), ~keep)):
        values = np.where(kept, values, 0)
        parts.append(values * min(1, 1 / np.linalg.norm(values)))
    np.testing.assert_allclose(flat(updates), -sum(parts), rtol=1e-5, atol=1e-7)


def test_masks_change_without_another_compilation():
    tx = ug_clu(optax.trace(0.9), max_norm=1.0, learning_rate=0.1)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, phase=FORGET))
    first, _ = step(gradient(0), with_masks(tx.init(START), forget=MASK), START)
    opposite = jax.tree.map(jnp.logical_not, MASK)
    second, _ = step(gradient(0), with_masks(tx.init(START), forget=opposite), START)
    assert step._cache_size() == 1
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        assert not np.any(np.asarray(a != 0) & np.asarray(b != 0))


def test_a_phase_that_is_none_is_refused():
    tx = phased(optax.identity())
    with pytest.raises(ValueError, match=r"LEARN \(2\)"):
        tx.update(START, tx.init(START), START, phase=3)
