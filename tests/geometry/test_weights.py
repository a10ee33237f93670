import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.geometry import combine, cosine, distance, inner, lerp, norm


@pytest.fixture
def trees(x64):
    def make(seed):
        a, b = jax.random.normal(jax.random.key(seed), (2, 6))
        return {"a": a, "b": {"c": b.reshape(2, 3)}}

    return make(0), make(1)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_all_are_the_operations_on_flat_vectors(trees):
    a, b = trees
    u, v = flat(a), flat(b)
    np.testing.assert_allclose(flat(combine([a, b, a], [0.5, -2.0, 1.0])), 1.5 * u - 2 * v, rtol=1e-12)
    np.testing.assert_allclose(flat(lerp(a, b, 0.3)), 0.7 * u + 0.3 * v, rtol=1e-12)
    np.testing.assert_array_equal(flat(lerp(a, b, 0)), u)
    np.testing.assert_array_equal(flat(lerp(a, b, 1)), v)
    np.testing.assert_allclose(inner(a, b), u @ v, rtol=1e-12)
    np.testing.assert_allclose(norm(a), np.linalg.norm(u), rtol=1e-12)
    np.testing.assert_allclose(distance(a, b), np.linalg.norm(u - v), rtol=1e-12)
    np.testing.assert_allclose(cosine(a, b), u @ v / np.linalg.norm(u) / np.linalg.norm(v), rtol=1e-12)
    assert cosine(a, jax.tree.map(jnp.zeros_like, a)) == 0


def test_bfloat16_leaves_keep_their_type_and_sums_are_float32():
    ones = {"w": jnp.ones(1000, jnp.bfloat16)}
    assert combine([ones, ones], jnp.array([0.5, 0.25]))["w"].dtype == jnp.bfloat16
    assert inner(ones, ones).dtype == jnp.float32
    assert float(inner(ones, ones)) == 1000  # a bfloat16 sum stalls at 256
    near = jax.tree.map(lambda leaf: leaf * 1.0078125, ones)
    assert float(distance(ones, near)) == pytest.approx(0.0078125 * 1000**0.5, rel=1e-5)


def test_counters_are_rounded_not_cut():
    for n in range(30):
        assert int(lerp(jnp.array(n), jnp.array(n), 0.1)) == n
    assert combine([{"n": jnp.array(3)}], [1.0])["n"].dtype == jnp.int32


def test_a_lerp_may_be_traced_in_t(trees):
    a, b = trees
    path = jax.jit(jax.vmap(lambda t: distance(lerp(a, b, t), a)))(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(path, np.array([0, 0.5, 1]) * float(distance(a, b)), atol=1e-12)


@pytest.mark.parametrize(("count", "coefficients"), [(2, [1.0]), (0, [])])
def test_numbers_and_trees_must_match(count, coefficients):
    with pytest.raises(ValueError, match="one coefficient per tree"):
        combine([jnp.ones(2)] * count, coefficients)
