"""Settings that are arrays which a compiled function holds: they can be read while it is traced, and are checked then."""

import jax
import jax.numpy as jnp
import pytest

from clujax.geometry import Shares, inverse_product, request_parts
from clujax.transforms import adaptive_coefficients, slow_weights

LOSS = lambda x: 0.5 * x**2
X = jnp.array(0.5)
CALLS = {
    "exponent": (lambda value: adaptive_coefficients(jnp.ones(3), exponent=value), 0.5, -1.0),
    "step_size": (lambda value: slow_weights(value, 2).init(X), 0.5, 2.0),
    "damping": (lambda value: inverse_product(lambda v: 3.0 * v, jnp.ones(2), damping=value), 1.0, -1.0),
    "rate": (
        lambda value: request_parts(LOSS, LOSS, LOSS, X, rate=value, damping=0.0, shares=Shares(1, 1, 2)),
        1.0,
        0.0,
    ),
    "Shares": (lambda value: request_parts(LOSS, LOSS, LOSS, X, damping=0.0, shares=Shares(1, 1, value)), 2.0, 0.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_held_setting_is_read(name):
    call, good, bad = CALLS[name]
    held, wrong = jnp.float32(good), jnp.float32(bad)
    jax.jit(lambda: jax.tree.leaves(call(held)))()
    with pytest.raises(ValueError, match=name):
        jax.jit(lambda: jax.tree.leaves(call(wrong)))()
