"""A request on quadratics, where the displacement to the oracle and the fast–slow cycle have closed forms."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.geometry import Shares, cosine, displacement, request_parts
from clujax.transforms import FORGET, REMAIN, sfron, slow_weights


class Bowls(NamedTuple):
    """Quadratics ½(w−c)ᵀH(w−c) of the three sets."""

    hessians: dict
    centres: dict

    def loss(self, name, weight=1.0):
        away = lambda w: w - self.centres[name]
        return lambda w: 0.5 * weight * away(w) @ self.hessians[name] @ away(w)

    def minimum(self, **weights):
        left = sum(weight * self.hessians[name] for name, weight in weights.items())
        right = sum(weight * self.hessians[name] @ self.centres[name] for name, weight in weights.items())
        return jnp.linalg.solve(left, right)


def bowls(seed, size=6):
    rng = np.random.default_rng(seed)

    def hessian(lowest):
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        return jnp.asarray(basis * np.geomspace(lowest, 2.0, size) @ basis.T)

    # of the three only the remaining curvature need be definite
    hessians = {"remain": hessian(0.2), "learn": hessian(1e-3), "forget": hessian(1e-3)}
    return Bowls(hessians, {name: jnp.asarray(rng.normal(size=size)) for name in hessians})


@given(seed=st.integers(0, 2**31), learned=st.floats(0.0, 1.0), forgotten=st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_on_quadratics_the_displacement_to_the_oracle_is_exact_whatever_the_weights(seed, learned, forgotten):
    with jax.enable_x64(True):
        sets = bowls(seed)
        solver = lineax.CG(rtol=1e-13, atol=1e-13, max_steps=100)
        at = sets.minimum(remain=1.0, learn=learned, forget=forgotten)
        found = quadratic_displacement(sets, at, learned, forgotten, solver)
        np.testing.assert_allclose(found, at - sets.minimum(remain=1.0, learn=1.0), rtol=0, atol=1e-10)


@functools.partial(jax.jit, static_argnames="solver")
def quadratic_displacement(sets, at, learned, forgotten, solver):
    return displacement(
        sets.loss("learn", 1 - learned),
        sets.loss("forget", forgotten),
        sets.loss("remain"),
        at,
        damping=0.0,
        plain_learn_loss=sets.loss("learn"),
        solver=solver,
    )


def plain_sgd(masked, rate, slow_step, repairs):
    """The same cycle from optax alone: the mask is the caller's, every update counts."""
    del masked
    return optax.chain(optax.sgd(rate), slow_weights(slow_step, repairs + 1))


def shared_sfron(masked, rate, slow_step, repairs):
    return sfron(optax.identity(), masked, learning_rate=rate, slow_step=slow_step, slow_every=repairs)


@pytest.mark.parametrize("repairs", [1, 5, 40])
@pytest.mark.parametrize("make", [plain_sgd, shared_sfron])
def test_a_cycle_on_a_quadratic_is_a_polynomial_filter_of_learning_and_forgetting(x64, make, repairs):
    sets, rate, beta, slow_step = bowls(1), 0.05, 0.3, 0.4
    mask = jnp.array([True, False, True, True, False, True])
    transform = make(mask, rate, slow_step, repairs)

    def fast_gradient(w):
        learn, forget = (jax.grad(sets.loss(name))(w) for name in ("learn", "forget"))
        return learn - 0.5 * forget

    def step(gradient, carry, phase):
        w, state = carry
        extra = {"phase": phase} if make is shared_sfron else {}
        updates, state = transform.update(gradient, state, w, **extra)
        return optax.apply_updates(w, updates), state

    @jax.jit
    def cycle(carry):
        g = beta / rate * fast_gradient(carry[0])  # the rate is shared; β is in the loss
        carry = step(g if make is shared_sfron else g * mask, carry, FORGET)
        remain = jax.grad(sets.loss("remain"))
        return jax.lax.fori_loop(0, repairs, lambda _, now: step(remain(now[0]), now, REMAIN), carry)

    identity, centre = np.eye(6), sets.centres["remain"]
    left = np.linalg.matrix_power(identity - rate * np.asarray(sets.hessians["remain"]), repairs)
    carry = (jnp.ones(6), transform.init(jnp.ones(6)))
    for _ in range(3):  # slow weights of one cycle are the start of the next
        at, carry = carry[0], cycle(carry)
        expected = (identity - left) @ (at - centre) + beta * left @ (fast_gradient(at) * mask)
        np.testing.assert_allclose(at - carry[0], slow_step * expected, rtol=0, atol=1e-12)


def test_a_cycle_at_the_remaining_minimum_follows_the_newton_part(x64):
    sets, rate, repairs = bowls(1), 0.05, 20  # ηT = 1: a damping of 1
    centre = sets.centres["remain"]
    losses = [sets.loss(name) for name in ("learn", "forget", "remain")]
    parts = jax.jit(lambda w: request_parts(*losses, w, damping=1.0, shares=Shares(1, 1, 1)))(centre)
    push = parts.learn + parts.forget
    repaired = np.linalg.matrix_power(np.eye(6) - rate * np.asarray(sets.hessians["remain"]), repairs) @ push
    assert float(cosine(repaired, parts.newton)) > 0.97
    assert float(cosine(repaired, parts.newton)) > float(cosine(repaired, push))
