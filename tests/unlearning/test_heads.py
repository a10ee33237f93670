"""Refitted heads against dense formulas, and their certificate against perturbed heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.errors import RequestError
from clujax.unlearning import heads
from clujax.unlearning import random_features as bed


def head_problem(rows=60, width=9, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    z = heads.with_one(rng.normal(size=(rows, width)))
    y = rng.integers(0, classes, rows)
    return z, heads.centred_targets(y, classes, jnp.float64), jnp.asarray(rng.normal(size=(width + 1, classes)))


def gram_of(z, t, **options):
    return heads.gram_update(heads.gram_init(z.shape[1], t.shape[1], z.dtype), z, t, **options)


def test_sums_add_up_over_batches_with_padding_and_take_rows_away(x64):
    z, t, _ = head_problem()
    whole = gram_of(z, t)
    parts = heads.gram_init(10, 4, jnp.float64)
    for first in range(0, 60, 25):
        rows = np.minimum(np.arange(first, first + 25), 59)
        weight = (np.arange(first, first + 25) < 60).astype(float)
        parts = jax.jit(heads.gram_update)(parts, z[rows], t[rows], weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), parts, whole)
    less = heads.gram_update(whole, z[:20], t[:20], weight=-np.ones(20))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), less, gram_of(z[20:], t[20:]))


@pytest.mark.parametrize("rows", [6, 60])
def test_refitted_head_is_the_ridge_minimiser(x64, rows):
    z, t, initial = head_problem(rows)
    dense = initial + z.T @ np.linalg.solve(z @ z.T + 0.3 * np.eye(rows), t - z @ initial)
    np.testing.assert_allclose(heads.refit_head(gram_of(z, t), initial, 0.3), dense, atol=1e-10)
    np.testing.assert_allclose(bed.sgd_limit(z, t, initial, 0.3), dense, atol=1e-10)


def test_refitted_head_in_its_limits(x64):
    z, t, initial = head_problem(60)
    least = np.linalg.lstsq(np.array(z), np.array(t), rcond=None)[0]
    np.testing.assert_allclose(heads.refit_head(gram_of(z, t), initial, 1e-11), least, atol=1e-8)
    np.testing.assert_allclose(heads.refit_head(gram_of(z, t), initial, 1e12), initial, atol=1e-6)
    few, answers, _ = head_problem(5)
    np.testing.assert_allclose(few @ heads.refit_head(gram_of(few, answers), initial, 1e-11), answers, atol=1e-8)


@pytest.mark.parametrize("rows", [6, 60])
def test_published_operator_is_the_projector_in_exact_form(x64, rows):
    """Push-through: I − ε(G + ε)⁻¹ = Zᵀ(ZZᵀ + ε)⁻¹Z."""
    z, t, initial = head_problem(rows)
    trained = initial + 1.0
    ridge = 1e-6 * float(jnp.trace(z.T @ z)) / 10
    projector = z.T @ np.linalg.solve(z @ z.T + ridge * np.eye(rows), z)
    dense = projector @ (trained - initial) + initial + trained
    found = heads.published_head(gram_of(z, t), initial, trained, ridge)
    np.testing.assert_allclose(found, dense, rtol=1e-7, atol=1e-7)
    labels = z @ found - z @ trained
    gap = float(jnp.abs(labels - z @ trained).max())
    # On the rows it was made from it always returns the trained predictions; off them only with rows to spare.
    assert gap < 1e-3
    other = heads.with_one(np.random.default_rng(9).normal(size=(5, 9)))
    off = float(jnp.abs(other @ found - 2 * other @ trained).max())
    assert off < 1e-3 if rows == 60 else off > 0.1


def test_head_is_read_and_written_whole():
    params = {"a": {"kernel": jnp.ones((2, 3))}, "out": {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}}
    head = heads.head_of(params, ("out", "head"))
    assert head.shape == (4, 2)
    changed = heads.with_head(params, ("out", "head"), head + 1)
    np.testing.assert_array_equal(heads.head_of(changed, ("out", "head")), head + 1)
    assert changed["a"] is params["a"]
    assert float(params["out"]["head"]["bias"].sum()) == 0
    for path in (("nothing",), ("out",)):
        with pytest.raises(RequestError, match="/".join(path)):
            heads.head_of(params, path)


def test_a_certificate_bounds_the_distance_to_retraining(x64):
    z, t, initial = head_problem(80)
    ridge = 0.05
    trained = heads.refit_head(gram_of(z, t), initial, ridge)
    sums = heads.gram_update(gram_of(z, t), z[:20], t[:20], weight=-np.ones(20))
    deleted = heads.refit_head(sums, initial, ridge)
    retrained = bed.sgd_limit(z[20:], t[20:], initial, ridge)
    assert float(jnp.linalg.norm(trained - retrained)) > 0.01
    good = heads.certify_head(deleted, z[20:], t[20:], initial, ridge)
    assert float(jnp.linalg.norm(deleted - retrained)) < 1e-10
    assert good.relative_bound < 1e-10
    assert "60 remaining rows" in str(good)
    for wrong in (trained, retrained + 1e-3):
        told = heads.certify_head(wrong, z[20:], t[20:], initial, ridge)
        distance = float(jnp.linalg.norm(wrong - retrained))
        assert distance <= told.bound < 1e4 * distance
        assert told.residual > 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ridge": 0.0}, "needs a positive"),
        ({"head": jnp.ones((3, 4))}, "shapes do not fit"),
        ({"targets": jnp.ones((5, 4))}, "shapes do not fit"),
        ({"features": jnp.full((60, 10), jnp.nan)}, "NaN or Inf"),
    ],
)
def test_certificates_of_nonsense_are_refused(change, words):
    z, t, initial = (jnp.asarray(a, jnp.float32) for a in head_problem())
    arguments = {"head": initial, "features": z, "targets": t, "initial": initial, "ridge": 1.0} | change
    with pytest.raises(RequestError, match=words):
        heads.certify_head(**arguments)


def test_a_ridge_that_returns_noise_is_warned_of():
    z, t, _ = (jnp.asarray(a, jnp.float32) for a in head_problem())
    with pytest.warns(UserWarning, match="rounding noise"):
        heads.check_ridge(gram_of(z, t), 1e-8)
    with pytest.raises(RequestError, match="ridge is -1"):
        heads.check_ridge(gram_of(z, t), -1.0)


def test_tangent_labels_of_a_linear_model_are_the_exact_ones(x64):
    rng = np.random.default_rng(0)
    z, t, initial = head_problem(12, width=20)
    forget = jnp.asarray(rng.normal(size=(5, 21)))
    both = jnp.concatenate([z, forget])
    answers = jnp.concatenate([t, jnp.asarray(np.eye(4)[rng.integers(0, 4, 5)])])
    trained = bed.sgd_limit(both, answers, initial)
    found = heads.tangent_relabel(lambda w, x: x @ w, trained, initial, z, forget, ridge=1e-9)
    np.testing.assert_allclose(found, bed.exact_relabel(forget, z, t, initial), atol=1e-6)
