"""Every product against the dense matrix it stands for, in double precision."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clujax.geometry import categorical, combine, fvp, gaussian, gnvp, hvp, inverse_hvp, inverse_product


def split(batch, chunks):
    return jax.tree.map(lambda leaf: leaf.reshape(chunks, -1, *leaf.shape[1:]), batch)


def jacobian(net):
    return jax.jit(jax.jacobian(lambda flat: net.outputs(net.tree(flat), net.batch)))(net.flat(net.params))


def dense_fisher(net):
    """E over rows and labels of the gradients' outer product, one label at a time: no softmax formula in it."""

    def log_p(flat):
        return jax.nn.log_softmax(net.outputs(net.tree(flat), net.batch))

    flat = net.flat(net.params)
    chances, each = jnp.exp(log_p(flat)), jax.jit(jax.jacobian(log_p))(flat)
    return jnp.einsum("bc,bcp,bcq->pq", chances, each, each) / chances.shape[0]


def test_hvp_is_the_dense_hessian(net, hessian):
    product = net.flat(hvp(net.loss, net.params, net.vector))
    np.testing.assert_allclose(product, hessian @ net.flat(net.vector), atol=1e-12)


def test_gnvp_is_the_dense_gauss_newton_matrix(net):
    def loss_of_outputs(z):  # curvature that differs between rows, and is not the softmax's
        return jnp.mean(jnp.log(jnp.cosh(z)))

    z = net.outputs(net.params, net.batch)
    inner = jax.hessian(loss_of_outputs)(z)
    each = jacobian(net)
    dense = jnp.einsum("bcp,bcde,deq->pq", each, inner, each)
    product = gnvp(lambda p: net.outputs(p, net.batch), loss_of_outputs, net.params, net.vector)
    np.testing.assert_allclose(net.flat(product), dense @ net.flat(net.vector), atol=1e-12)


def test_fvp_is_the_expected_outer_product(net):
    product = fvp(net.outputs, net.params, net.vector, split(net.batch, 4))
    np.testing.assert_allclose(net.flat(product), dense_fisher(net) @ net.flat(net.vector), atol=1e-12)
    named = fvp(lambda p: net.outputs(p, net.batch), net.params, net.vector, curvature=categorical)
    np.testing.assert_allclose(net.flat(product), net.flat(named), atol=1e-12)


def test_gaussian_fvp_is_the_mean_outer_product_of_jacobians(net):
    each = jacobian(net)
    dense = jnp.einsum("bcp,bcq->pq", each, each) / each.shape[0]
    product = fvp(lambda p: net.outputs(p, net.batch), net.params, net.vector, curvature=gaussian)
    np.testing.assert_allclose(net.flat(product), dense @ net.flat(net.vector), atol=1e-12)
    wide = fvp(lambda p: net.outputs(p, net.batch), net.params, net.vector, curvature=lambda z, t: t / 4.0)
    np.testing.assert_allclose(4 * net.flat(wide), net.flat(product), atol=1e-12)  # standard deviation 2


def test_microbatched_is_full(net):
    def outputs_loss(z, batch):
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(z.shape[0]), batch["y"]])

    @jax.jit
    def products(chunks):
        return (
            hvp(net.loss, net.params, net.vector, chunks),
            gnvp(net.outputs, outputs_loss, net.params, net.vector, chunks),
            inverse_hvp(net.loss, net.params, net.vector, damping=2.0, batches=chunks),
        )

    one = products(split(net.batch, 1))
    for chunked, full in zip(products(split(net.batch, 4)), one, strict=True):
        np.testing.assert_allclose(net.flat(chunked), net.flat(full), atol=1e-8)
    unbatched = inverse_hvp(net.loss, net.params, net.vector, damping=2.0)
    np.testing.assert_allclose(net.flat(one[2]), net.flat(unbatched), atol=1e-8)


@jax.jit
def bent(at, w):
    return hvp(lambda p: jnp.sum(jnp.sin(p)) * jnp.sum(p**2), at, w)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-3, 3), b=st.floats(-3, 3), seed=st.integers(0, 99))
def test_hvp_is_linear_and_symmetric(a, b, seed):
    u, v = jax.random.normal(jax.random.key(seed), (2, 5))
    at = jnp.linspace(-1.0, 1.0, 5)

    np.testing.assert_allclose(bent(at, a * u + b * v), a * bent(at, u) + b * bent(at, v), atol=2e-3)
    np.testing.assert_allclose(u @ bent(at, v), v @ bent(at, u), atol=2e-3)


def test_under_jit_and_vmap_columns_make_the_matrix(net, hessian):
    flat = net.flat(net.params)
    columns = jax.jit(jax.vmap(lambda v: net.flat(hvp(net.loss, net.params, net.tree(v), split(net.batch, 2)))))
    np.testing.assert_allclose(columns(jnp.eye(flat.size)), hessian, atol=1e-12)


def test_one_and_eight_devices_agree(net, hessian, mesh):
    rows = NamedSharding(mesh, P("data"))
    shared = NamedSharding(mesh, P())
    fsdp = {"first": {"w": P(None, "data"), "b": P("data")}, "head": {"w": P("data"), "b": P()}}
    params, vector = (
        jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, fsdp)
        for tree in (net.params, net.vector)
    )
    batch = jax.device_put(net.batch, rows)
    found = jax.jit(lambda p, v, batch: hvp(lambda p: net.loss(p, batch), p, v))(params, vector, batch)
    np.testing.assert_allclose(net.flat(jax.device_get(found)), hessian @ net.flat(net.vector), atol=1e-12)

    chunks = jax.device_put(split(net.batch, 2), NamedSharding(mesh, P(None, "data")))
    solve = jax.jit(lambda p, v, chunks: inverse_hvp(net.loss, p, v, damping=2.0, batches=chunks))
    one = solve(net.params, net.vector, split(net.batch, 2))
    for where in (params, jax.device_put(net.params, shared)):
        eight = jax.device_get(solve(where, vector, chunks))
        np.testing.assert_allclose(net.flat(eight), net.flat(one), atol=1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_inverse_hvp_is_the_dense_solution_however_small_the_vector(net, hessian, size):
    matrix = hessian
    damping = 0.05 - float(jnp.linalg.eigvalsh(matrix)[0])
    vector = jax.tree.map(lambda leaf: size * leaf, net.vector)
    exact = jnp.linalg.solve(matrix + damping * jnp.eye(len(matrix)), net.flat(vector))
    found = net.flat(inverse_hvp(net.loss, net.params, vector, damping=damping))
    assert jnp.linalg.norm(found - exact) < 1e-6 * jnp.linalg.norm(exact)


def test_inverse_of_a_fisher_and_a_given_solver(net):
    def product(v):
        return fvp(lambda p: net.outputs(p, net.batch), net.params, v)

    exact = jnp.linalg.solve(dense_fisher(net) + 1e-2 * jnp.eye(68), net.flat(net.vector))
    found = net.flat(inverse_product(product, net.vector, damping=1e-2))
    assert jnp.linalg.norm(found - exact) < 1e-6 * jnp.linalg.norm(exact)
    one_step = inverse_product(
        product, net.vector, damping=1e-2, solver=lineax.CG(rtol=0.0, atol=0.0, max_steps=1)
    )  # steepest descent with an exact line search
    v = net.flat(net.vector)
    curve = v @ (dense_fisher(net) @ v + 1e-2 * v)
    np.testing.assert_allclose(net.flat(one_step), v * (v @ v) / curve, rtol=1e-10)


def test_float32_solve_of_many_weights_with_little_curvature_is_finite():
    scales = jnp.logspace(-6, 1, 200_000)
    vector = jnp.ones(200_000)
    found = inverse_hvp(lambda w: 0.5 * jnp.sum(scales * w**2), jnp.zeros(200_000), vector, damping=1e-2)
    exact = vector / (scales + 1e-2)
    assert float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) < 1e-3


def test_a_zero_vector_and_bfloat16_leaves_come_back_as_they_went():
    params = {"a": jnp.array([1.0, 2.0], jnp.bfloat16), "b": jnp.array([3.0])}

    def loss(p):
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(p))

    zero = jax.tree.map(jnp.zeros_like, params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(inverse_hvp(loss, params, zero, damping=1.0)))
    solved = inverse_hvp(loss, params, params, damping=2.0)
    assert jax.tree.map(lambda leaf: leaf.dtype, solved) == jax.tree.map(lambda leaf: leaf.dtype, params)
    np.testing.assert_allclose(solved["b"], [0.75], rtol=1e-5)
    chunked = hvp(lambda p, c: c * loss(p), params, params, jnp.ones(1000))  # a bfloat16 sum would stall at 256
    np.testing.assert_allclose(chunked["a"].astype(jnp.float32), [2.0, 4.0], rtol=1e-2)


@pytest.mark.parametrize("damping", [-0.1, float("nan")])
def test_a_wrong_damping_is_named(damping):
    with pytest.raises(ValueError, match=r"damping is .*expected"):
        inverse_hvp(lambda w: w @ w, jnp.ones(2), jnp.ones(2), damping=damping)


def test_chunks_that_do_not_match_are_named():
    with pytest.raises(ValueError, match="leading axis"):
        hvp(lambda p, b: p @ p, jnp.ones(2), jnp.ones(2), {"x": jnp.ones((3, 1)), "y": jnp.ones((2, 1))})


def test_hvp_costs_at_most_three_gradients_of_arithmetic():
    keys = jax.random.split(jax.random.key(0), 4)
    params = [jax.random.normal(keys[0], (64, 64)), jax.random.normal(keys[1], (64, 10))]
    x = jax.random.normal(keys[2], (128, 64))

    def loss(p):
        return jnp.mean(jax.nn.logsumexp(jnp.tanh(x @ p[0]) @ p[1], -1))

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    gradient = flops(jax.grad(loss), params)
    assert flops(lambda p, v: hvp(loss, p, v), params, combine([params], [2.0])) <= 3 * gradient
