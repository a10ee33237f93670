import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clujax.transforms import adaptive_coefficients, effective_sample_size

LOSSES = jnp.array([0.02, 0.5, 1.0, 3.0, 0.1, 2.0, 0.7, 5.0])


def test_sum_to_one_and_do_not_see_the_scale_of_the_loss():
    w = adaptive_coefficients(LOSSES, 0.5, floor=0)
    np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(adaptive_coefficients(7 * LOSSES, 0.5, floor=0), w, rtol=1e-5)
    np.testing.assert_allclose(adaptive_coefficients(LOSSES, 0.0), 1 / 8, rtol=1e-6)


def test_gradient_has_no_term_through_the_weights():
    def total(losses):
        return jnp.sum(adaptive_coefficients(losses, 0.5) * losses)

    np.testing.assert_allclose(jax.grad(total)(LOSSES), adaptive_coefficients(LOSSES, 0.5), rtol=1e-6)


def test_one_row_of_exactly_zero_loss_takes_all_without_the_floor():
    losses = LOSSES.at[0].set(0.0)
    assert effective_sample_size(adaptive_coefficients(losses, 0.5, floor=0)) < 1.001
    assert effective_sample_size(adaptive_coefficients(losses, 0.5)) > 1.3


def test_batch_over_eight_devices_has_one_sum():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    expected = adaptive_coefficients(LOSSES, 0.5)
    sharded = jax.device_put(LOSSES, NamedSharding(mesh, P("data")))
    np.testing.assert_allclose(jax.jit(lambda x: adaptive_coefficients(x, 0.5))(sharded), expected, rtol=1e-5)
    mapped = jax.shard_map(
        lambda x: adaptive_coefficients(x, 0.5, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    np.testing.assert_allclose(mapped(sharded), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments", [{"exponent": -1.0}, {"exponent": float("nan")}, {"exponent": 1.0, "floor": -1.0}]
)
def test_refuses_what_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match="expected a number of at least 0"):
        adaptive_coefficients(LOSSES, **arguments)
