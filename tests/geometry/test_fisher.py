import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clujax.geometry import batch_diagonal, diagonal


def cut(batch, *ends):
    """Batches of rows [0, e1), [e1, e2), ..."""
    return [jax.tree.map(lambda leaf: leaf[a:b], batch) for a, b in zip((0, *ends), ends)]


def row_gradients(net, batch):
    """[B, P], one row at a time in a Python loop."""
    gradient = jax.jit(jax.grad(net.loss))
    rows = cut(batch, *range(1, len(batch["y"]) + 1))
    return jnp.stack([net.flat(gradient(net.params, row)) for row in rows])


def test_batch_kind_squares_batch_means_and_counts_a_small_batch_in_full(net):
    batches = cut(net.batch, 6, 12, 16)
    expected = np.mean([net.flat(jax.jit(jax.grad(net.loss))(net.params, b)) ** 2 for b in batches], 0)
    np.testing.assert_allclose(net.flat(diagonal(net.losses, net.params, iter(batches))), expected, rtol=1e-10)


@pytest.mark.parametrize("microbatch", [None, 4, 5])
def test_example_kind_is_the_mean_over_rows_whatever_the_batches(net, microbatch):
    expected = jnp.mean(row_gradients(net, net.batch) ** 2, 0)
    for batches in (cut(net.batch, 16), cut(net.batch, 6, 12, 16)):
        found = diagonal(net.losses, net.params, batches, kind="example", microbatch=microbatch)
        np.testing.assert_allclose(net.flat(found), expected, rtol=1e-10)


def test_exact_kind_is_the_diagonal_of_the_expected_outer_product(net):
    flat = net.flat(net.params)

    def log_p(v):
        return jax.nn.log_softmax(net.outputs(net.tree(v), net.batch))

    expected = jnp.einsum("bc,bcp->p", jnp.exp(log_p(flat)), jax.jit(jax.jacobian(log_p))(flat) ** 2) / 16
    found = diagonal(None, net.params, cut(net.batch, 6, 16), kind="exact", outputs=net.outputs, microbatch=3)
    np.testing.assert_allclose(net.flat(found), expected, rtol=1e-10)


def test_true_kind_draws_labels_of_the_model_and_the_split_does_not_matter(net):
    def sampled(key, batches):
        return net.flat(diagonal(None, net.params, batches, kind="true", outputs=net.outputs, key=key))

    one = sampled(jax.random.key(1), cut(net.batch, 16))
    np.testing.assert_allclose(sampled(jax.random.key(1), cut(net.batch, 6, 16)), one, rtol=1e-10)
    assert not np.allclose(sampled(jax.random.key(2), cut(net.batch, 16)), one)
    draw = jax.vmap(
        lambda key: net.flat(batch_diagonal(None, net.params, net.batch, kind="true", outputs=net.outputs, key=key))
    )
    draws = jax.jit(draw)(jax.random.split(jax.random.key(3), 2000))
    exact = net.flat(diagonal(None, net.params, [net.batch], kind="exact", outputs=net.outputs))
    error = (jnp.mean(draws, 0) - exact) / (jnp.std(draws, 0) / jnp.sqrt(2000) + 1e-12)
    assert float(jnp.max(jnp.abs(error))) < 5  # standard errors, over 68 weights


@pytest.mark.parametrize("kind", ["batch", "example"])
def test_pre_clip_bounds_each_gradient_before_squaring(net, kind):
    each = net.flat(jax.grad(net.loss)(net.params))[None] if kind == "batch" else row_gradients(net, net.batch)
    norms = jnp.linalg.norm(each, axis=1)
    limit = float(jnp.median(norms)) * 0.9
    assert (norms > limit).any()
    clipped = each * jnp.minimum(1, limit / norms)[:, None]
    found = diagonal(net.losses, net.params, [net.batch], kind=kind, pre_clip=limit)
    np.testing.assert_allclose(net.flat(found), jnp.mean(clipped**2, 0), rtol=1e-10)


def test_equal_sets_have_ratio_one_and_eight_devices_agree(net, mesh):
    where = NamedSharding(mesh, P("data"))
    for kind in ("batch", "example"):
        one = diagonal(net.losses, net.params, [net.batch], kind=kind)
        eight = diagonal(net.losses, net.params, [jax.device_put(net.batch, where)], kind=kind)
        np.testing.assert_allclose(net.flat(jax.device_get(eight)), net.flat(one), rtol=1e-10)


def test_results_are_float32_for_bfloat16_parameters():
    params = {"w": jnp.array([1.0, 2.0], jnp.bfloat16)}
    found = diagonal(lambda p, x: (x @ p["w"]).astype(jnp.float32), params, [jnp.full((3, 2), 1e-3)])
    assert found["w"].dtype == jnp.float32
    np.testing.assert_allclose(found["w"], 1e-6, rtol=1e-2)


def test_a_gradient_that_is_not_finite_names_its_leaf():
    params = {"good": jnp.ones(2), "bad": jnp.array([0.0])}

    def losses(p, x):
        return x @ p["good"] + jnp.sqrt(p["bad"])

    with pytest.raises(ValueError, match=r"\['bad'\] is not finite"):
        diagonal(losses, params, [jnp.ones((2, 2))])


@pytest.mark.parametrize("kind", ["batch", "example"])
def test_losses_that_are_not_one_per_row_are_refused(kind):
    with pytest.raises(ValueError, match="one value per row"):
        diagonal(lambda p, x: jnp.mean(x @ p), jnp.ones(2), [jnp.ones((3, 2))], kind=kind)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "empirical"}, "kind is 'empirical'; expected one of"),
        ({"kind": "true"}, "outputs="),
        ({"kind": "true", "outputs": lambda p, x: x}, "key="),
        ({"pre_clip": 0.0}, "pre_clip is 0.0"),
        ({"pre_clip": float("nan")}, "pre_clip is nan"),
        ({"microbatch": 0}, "microbatch is 0"),
        ({"batches": []}, "batches is empty"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    call = {"batches": [jnp.ones((3, 2))]} | arguments
    with pytest.raises(ValueError, match=message):
        diagonal(lambda p, x: x @ p, jnp.ones(2), call.pop("batches"), **call)
