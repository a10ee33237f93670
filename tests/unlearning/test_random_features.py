"""The exact test bed: closed forms against descent, the exactness theorem, its gap, and what breaks it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.errors import RequestError
from clujax.geometry import featurize, fourier_features, median_distance
from clujax.unlearning import random_features as bed


def problem(seed=0, remain=30, forget=8, pairs=40, classes=3, noise=1.0):
    """Features of norm 1, far from collinear, with a starting point that is not small; float64 under x64."""
    rng = np.random.default_rng(seed)
    drawn = fourier_features(jax.random.key(seed), 5, pairs, 0.7)
    phi = featurize(drawn, rng.normal(size=(remain + forget, 5)))
    y = jnp.asarray(np.eye(classes)[rng.integers(0, classes, remain + forget)])
    initial = jnp.asarray(noise * rng.normal(size=(2 * pairs, classes)))
    return phi[:remain], y[:remain], phi[remain:], y[remain:], initial


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def test_features_have_norm_one_and_approximate_the_gaussian_kernel():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    phi = featurize(fourier_features(jax.random.key(0), 4, 20_000, 1.3), x)
    np.testing.assert_allclose(np.linalg.norm(phi, axis=1), 1.0, rtol=1e-5)
    sqdist = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.testing.assert_allclose(phi @ phi.T, np.exp(-sqdist / (2 * 1.3**2)), atol=0.03)


def test_median_distance_is_the_median_over_pairs():
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    pairs = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))[np.triu_indices(60, 1)]
    assert abs(float(median_distance(x, jax.random.key(0))) - np.median(pairs)) < 0.05


@pytest.mark.parametrize("rows", [20, 80, 120])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_the_limit_solves_its_least_squares_problem(x64, rows, ridge):
    """Against a dense solve of the stationarity equations, for fewer and more rows than features."""
    rng = np.random.default_rng(0)
    phi, y, w0 = rng.normal(size=(rows, 80)), rng.normal(size=(rows, 2)), rng.normal(size=(80, 2))
    found = bed.sgd_limit(phi, y, w0, ridge)
    oracle = w0 + np.linalg.pinv(phi.T @ phi + ridge * np.eye(80), rcond=1e-9) @ phi.T @ (y - phi @ w0)
    assert relative(found, oracle) < 1e-8


def test_cyclic_sgd_reaches_the_limit(x64):
    phi, y, _, _, initial = problem()
    found = bed.cyclic_sgd(phi, y, initial, tolerance=1e-9, max_epochs=20_000)
    assert float(found.residual) < 1e-9
    assert relative(found.weights, bed.sgd_limit(phi, y, initial)) < 1e-7


def test_first_pass_of_cyclic_sgd_is_the_published_update(x64):
    phi, y, _, _, initial = problem(remain=4)
    weights = np.array(initial)
    for t, (row, target) in enumerate(zip(np.array(phi), np.array(y), strict=True)):
        weights = weights - (t + 1) ** -0.2 * 2 * np.outer(row, row @ weights - target)
    found = bed.cyclic_sgd(phi, y, initial, max_epochs=1)
    assert int(found.epochs) == 1
    np.testing.assert_allclose(found.weights, weights, rtol=1e-12, atol=1e-13)


def test_early_stopping_is_asked_after_each_pass(x64):
    phi, y, _, _, initial = problem()
    distance = lambda w: jnp.linalg.norm(w - initial)
    far = float(distance(bed.cyclic_sgd(phi, y, initial, max_epochs=3).weights))
    found = bed.cyclic_sgd(phi, y, initial, stop=lambda w: distance(w) >= far - 1e-9)
    assert int(found.epochs) <= 3


def trained_and_retrained(seed=0):
    remain, y_r, forget, y_f, initial = problem(seed)
    trained = bed.sgd_limit(jnp.concatenate([remain, forget]), jnp.concatenate([y_r, y_f]), initial)
    return remain, y_r, forget, y_f, initial, trained, bed.sgd_limit(remain, y_r, initial)


def test_relabelled_finetuning_is_retraining(x64):
    """Closed form to 1e-10, SGD of the trained weights to 1e-5."""
    remain, y_r, forget, _, initial, trained, retrained = trained_and_retrained()
    assert relative(trained, retrained) > 0.05
    assert relative(bed.delete_rows(forget, remain, y_r, trained, initial), retrained) < 1e-10
    targets = jnp.concatenate([y_r, bed.exact_relabel(forget, remain, y_r, initial)])
    found = bed.cyclic_sgd(jnp.concatenate([remain, forget]), targets, trained, tolerance=1e-6, max_epochs=20_000)
    assert relative(found.weights, retrained) < 1e-5


def test_label_free_targets_are_the_same(x64):
    remain, y_r, forget, _, initial, trained, retrained = trained_and_retrained()
    by_label = bed.exact_relabel(forget, remain, y_r, initial)
    np.testing.assert_allclose(bed.exact_relabel_from_weights(forget, remain, trained, initial), by_label, atol=1e-10)
    np.testing.assert_allclose(by_label, forget @ retrained, atol=1e-10)
    prediction = forget @ trained - bed.outside_remaining(forget, remain) @ (trained - initial)
    np.testing.assert_allclose(prediction, by_label, atol=1e-10)


def test_ridge_runs_from_exact_labels_to_a_bad_teacher(x64):
    remain, y_r, forget, _, initial, *_ = trained_and_retrained()
    exact = bed.exact_relabel(forget, remain, y_r, initial)
    np.testing.assert_allclose(bed.exact_relabel(forget, remain, y_r, initial, 1e-12), exact, atol=1e-8)
    np.testing.assert_allclose(bed.exact_relabel(forget, remain, y_r, initial, 1e12), forget @ initial, atol=1e-6)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 50))
def test_gap_formula_is_the_measured_distance(seed):
    """For true, random and bad-teacher labels; only the exact ones have gap 0."""
    with jax.enable_x64(True):
        remain, y_r, forget, y_f, initial, trained, retrained = trained_and_retrained(seed)
        exact = bed.exact_relabel(forget, remain, y_r, initial)
        rng = np.random.default_rng(seed)
        wrong = jnp.asarray(np.eye(3)[rng.integers(0, 3, len(forget))])
        teacher = forget @ jnp.asarray(rng.normal(size=initial.shape))
        both = jnp.concatenate([remain, forget])
        for labels in (y_f, wrong, teacher):
            ended = bed.sgd_limit(both, jnp.concatenate([y_r, labels]), trained)
            measured = float(jnp.sum((ended - retrained) ** 2))
            assert measured > 1e-3
            assert abs(float(bed.relabel_gap(forget, remain, labels, exact)) / measured - 1) < 1e-7
        assert float(bed.relabel_gap(forget, remain, exact, exact)) == 0


def test_deletions_in_sequence_equal_one_deletion(x64):
    remain, y_r, forget, y_f, initial, trained, retrained = trained_and_retrained()
    first, rest = forget[:3], forget[3:]
    kept, kept_y = jnp.concatenate([remain, rest]), jnp.concatenate([y_r, y_f[3:]])
    between = bed.delete_rows(first, kept, kept_y, trained, initial)
    assert relative(between, bed.sgd_limit(kept, kept_y, initial)) < 1e-10
    after = bed.delete_rows(rest, remain, y_r, between, initial)
    assert relative(after, retrained) < 1e-10
    assert relative(after, bed.delete_rows(forget, remain, y_r, trained, initial)) < 1e-10


def test_order_and_repeats_do_not_matter(x64):
    remain, y_r, forget, _, initial, trained, retrained = trained_and_retrained()
    order = np.random.default_rng(0).permutation(len(remain))
    exact = bed.exact_relabel(forget, remain, y_r, initial)
    np.testing.assert_allclose(bed.exact_relabel(forget, remain[order], y_r[order], initial), exact, atol=1e-10)
    # A forgotten row that repeats a remaining one leaves nothing to forget of it.
    again = jnp.concatenate([forget, remain[:2]])
    assert relative(bed.delete_rows(again, remain, y_r, trained, initial), retrained) < 1e-9


def test_forget_rows_alone_are_not_enough(x64):
    remain, y_r, forget, _, initial, trained, retrained = trained_and_retrained()
    exact = bed.exact_relabel(forget, remain, y_r, initial)
    assert relative(bed.sgd_limit(forget, exact, trained), retrained) > 1e-2


def test_descent_with_adam_or_decay_is_warned_of_and_inexact(x64, recwarn):
    remain, y_r, forget, _, initial, trained, retrained = trained_and_retrained()
    both = jnp.concatenate([remain, forget])
    targets = jnp.concatenate([y_r, bed.exact_relabel(forget, remain, y_r, initial)])
    found = bed.descend_features(both, targets, trained, optax.sgd(0.15, momentum=0.9), 20_000)
    assert relative(found, retrained) < 1e-5
    assert not recwarn.list
    for tx in (optax.adam(1e-2), optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.15))):
        with pytest.warns(UserWarning, match="outside the span"):
            found = bed.descend_features(both, targets, trained, tx, 3000)
        assert relative(found, retrained) > 1e-3


def test_more_remaining_rows_than_features(x64):
    """Label form: the least-squares model. Label-free form: refused, since it would unlearn nothing."""
    remain, y_r, forget, _, initial = problem(remain=100, pairs=20)
    least = np.linalg.lstsq(np.array(remain), np.array(y_r), rcond=None)[0]
    np.testing.assert_allclose(bed.exact_relabel(forget, remain, y_r, initial), forget @ least, atol=1e-8)
    with pytest.raises(RequestError, match="own predictions"):
        bed.exact_relabel_from_weights(forget, remain, initial, initial)


def test_diagnosis_counts_ranks(x64):
    remain, _, forget, _, _ = problem()
    told = bed.diagnose(jnp.concatenate([forget, remain[:2]]), remain)
    assert (int(told.remain_rank), int(told.outside_rank)) == (30, 8)
    values = np.linalg.svd(np.array(remain), compute_uv=False)
    np.testing.assert_allclose(told.remain_condition, (values[0] / values[-1]) ** 2, rtol=1e-8)
    assert float(told.outside_condition) > 1e10


def test_float32_is_good_to_a_thousandth():
    remain, y_r, forget, y_f, initial = (jnp.asarray(a, jnp.float32) for a in problem(remain=15, forget=4, pairs=60))
    assert np.linalg.cond(np.array(remain @ remain.T)) < 1e3
    trained = bed.sgd_limit(jnp.concatenate([remain, forget]), jnp.concatenate([y_r, y_f]), initial)
    found = bed.delete_rows(forget, remain, y_r, trained, initial)
    assert relative(found, bed.sgd_limit(remain, y_r, initial)) < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, r, y, w: (f[:0], r, y, w), "forget has shape"),
        (lambda f, r, y, w: (f, r[:0], y[:0], w), "remain has shape"),
        (lambda f, r, y, w: (f[:, 1:], r, y, w), r"forget has shape \(8, 79\); expected \(8, 80\)"),
        (lambda f, r, y, w: (f, r, y[:, :2], w), "remain_targets has shape"),
        (lambda f, r, y, w: (f, r, y, w[1:]), "initial has shape"),
        (lambda f, r, y, w: (f.at[0, 0].set(jnp.nan), r, y, w), "forget has NaN"),
        (lambda f, r, y, w: (f, r.at[1].set(r[0]), y, w), "rank 29 of 30"),
    ],
)
def test_features_that_do_not_fit_are_refused(x64, change, words):
    remain, y_r, forget, _, initial = problem()
    with pytest.raises(RequestError, match=words):
        bed.check_features(*change(forget, remain, y_r, initial))
    with pytest.raises(RequestError, match="ridge is -1"):
        bed.check_features(forget, remain, y_r, initial, -1)
    bed.check_features(forget, remain, y_r, initial)


@pytest.mark.parametrize("arguments", [{"pairs": 0, "scale": 1.0}, {"pairs": 3, "scale": 0.0}])
def test_a_map_that_cannot_be_drawn_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        fourier_features(jax.random.key(0), 2, **arguments)
