"""The expected loss as an optax optimizer: limits, closed forms, and SAM's calling convention."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.geometry import Layout, filter_wise, isotropic, perturb, step_key
from clujax.transforms import cosine_increase, random_weight_perturbation

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([0.1, 0.2])}
SCALE = filter_wise({"kernel": Layout((0,))})


def loss(params):
    return jnp.sum(jnp.sin(params["kernel"])) + jnp.sum(params["bias"] ** 2)


GRAD = jax.grad(loss)


def run(tx, steps=3, params=PARAMS):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(GRAD(params), state, params, grad_fn=lambda p, i: GRAD(p))
        params = optax.apply_updates(params, updates)
    return params


def close(a, b, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def test_without_noise_it_is_the_inner_optimizer():
    for tx in (
        random_weight_perturbation(optax.adam(0.1), 0.0, SCALE),
        random_weight_perturbation(optax.adam(0.1), 0.5, SCALE, weight=0.0),
        random_weight_perturbation(optax.adam(0.1), lambda step: 0.0, SCALE),
    ):
        close(run(tx), run(optax.adam(0.1)), 1e-7)


def test_a_step_is_the_gradient_at_the_perturbed_weights_of_that_step():
    root, params = jax.random.key(4), PARAMS
    for step in range(2):
        there = perturb(params, step_key(root, step), 0.3, SCALE)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, GRAD(there))
    close(run(random_weight_perturbation(optax.sgd(0.1), 0.3, SCALE, root), 2), params, 1e-6)


def test_mixed_objective_is_the_weighted_mean_of_two_gradients():
    there = GRAD(perturb(PARAMS, step_key(jax.random.key(0), 0), 0.3, SCALE))
    here = GRAD(PARAMS)
    expected = jax.tree.map(lambda p, a, b: p - 0.1 * (0.25 * a + 0.75 * b), PARAMS, there, here)
    close(run(random_weight_perturbation(optax.sgd(0.1), 0.3, SCALE, weight=0.25), 1), expected, 1e-6)


def test_noise_on_every_second_step_only():
    tx = random_weight_perturbation(optax.sgd(0.1), 0.3, SCALE, every=2)
    noisy = random_weight_perturbation(optax.sgd(0.1), 0.3, SCALE)
    close(run(tx, 1), run(noisy, 1))
    first = run(tx, 1)
    close(run(tx, 2), jax.tree.map(lambda p, g: p - 0.1 * g, first, GRAD(first)), 1e-6)
    assert not np.allclose(run(noisy, 2)["kernel"], run(tx, 2)["kernel"])


def test_a_step_without_noise_draws_nothing():
    """Random numbers are in one branch of a condition alone."""
    tx = random_weight_perturbation(optax.sgd(0.1), 0.3, SCALE, every=2)
    update = lambda state: tx.update(PARAMS, state, PARAMS, grad_fn=lambda p, i: GRAD(p))[0]
    names = lambda eqns: {eqn.primitive.name for eqn in eqns}
    program = jax.make_jaxpr(update)(tx.init(PARAMS))
    assert "random_bits" not in names(program.eqns)
    (choice,) = (eqn for eqn in program.eqns if eqn.primitive.name == "cond")
    drawing = ["random_bits" in str(branch) for branch in choice.params["branches"]]
    assert drawing == [False, True]


def test_same_call_as_sam():
    """`optax.contrib.sam` in opaque mode and this one take the same arguments and give trees of the same kind."""
    sam = optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True, reset_state=False
    )
    assert jax.tree.structure(run(sam)) == jax.tree.structure(
        run(random_weight_perturbation(optax.sgd(0.1), 0.1, SCALE))
    )


def test_it_flattens_a_sharp_minimum_away():
    """Two valleys of equal depth: noise as wide as the narrow one leaves it for the broad one."""
    valleys = lambda x: -jnp.exp(-50 * (x + 1) ** 2) - jnp.exp(-0.5 * (x - 1) ** 2)

    def end(sigma):
        tx = random_weight_perturbation(optax.sgd(0.01), sigma, isotropic(), key=3)  # stable in the narrow valley

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x, state, x, grad_fn=lambda p, i: jax.grad(valleys)(p))
            return (x + updates, state), None

        x = jnp.float32(-1.0)
        return float(jax.lax.scan(step, (x, tx.init(x)), None, 4000)[0][0])

    np.testing.assert_allclose(end(0.0), -1.0, atol=0.01)
    assert end(0.4) > 0.5


def test_schedule():
    schedule = cosine_increase(0.2, 10)
    values = np.array([schedule(t) for t in range(15)])
    assert values[0] == 0
    np.testing.assert_allclose(values[5], 0.1, rtol=1e-6)
    np.testing.assert_allclose(values[10:], 0.2, rtol=1e-6)
    assert np.all(np.diff(values) >= 0)


def test_bad_input():
    tx = random_weight_perturbation(optax.sgd(0.1), 0.1, SCALE)
    with pytest.raises(ValueError, match="grad_fn"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="weight"):
        random_weight_perturbation(optax.sgd(0.1), 0.1, SCALE, weight=1.5)
    with pytest.raises(ValueError, match="every"):
        random_weight_perturbation(optax.sgd(0.1), 0.1, SCALE, every=0)
    with pytest.raises(ValueError, match="sigma"):
        run(random_weight_perturbation(optax.sgd(0.1), -0.1, SCALE))
    for steps in (0, -3):
        with pytest.raises(ValueError, match="total_steps"):
            cosine_increase(0.1, steps)
    for sigma in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            cosine_increase(sigma, 10)
