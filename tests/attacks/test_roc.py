"""Readings of ROC curves against scikit-learn's, and what they are invariant to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from clujax.attacks import auc, balanced_accuracy, loss_auc, priv_leak, tpr_at_fpr
from clujax.errors import RequestError

# Few distinct values: ties within and between the sets.
tied = lambda rows: st.lists(st.integers(-3, 3), min_size=rows, max_size=rows)


def curve(negatives, positives):
    return roc_curve(
        np.repeat([0, 1], [len(negatives), len(positives)]),
        np.concatenate([negatives, positives]),
        drop_intermediate=False,
    )


@settings(max_examples=40, deadline=None)
@given(tied(12), tied(7))
def test_readings_are_scikit_learns_with_ties(negatives, positives):
    negatives, positives = np.array(negatives, np.float32), np.array(positives, np.float32)
    truth = np.repeat([0, 1], [len(negatives), len(positives)])
    expected = roc_auc_score(truth, np.concatenate([negatives, positives]))
    assert float(auc(negatives, positives)) == pytest.approx(expected, abs=1e-6)
    fpr, tpr, _ = curve(negatives, positives)
    for rate in (0.0, 0.1, 0.5, 1.0):
        assert float(tpr_at_fpr(negatives, positives, rate)) == pytest.approx(tpr[fpr <= rate + 1e-9].max(), abs=1e-6)
    assert float(balanced_accuracy(negatives, positives)) == pytest.approx(0.5 + (tpr - fpr).max() / 2, abs=1e-6)


def test_auc_of_many_rows_in_float32_is_float64s():
    rng = np.random.default_rng(0)
    negatives, positives = rng.normal(size=50_000).astype(np.float32), rng.normal(0.3, 1, 20_000).astype(np.float32)
    expected = roc_auc_score(np.repeat([0, 1], [50_000, 20_000]), np.concatenate([negatives, positives]))
    assert float(auc(negatives, positives)) == pytest.approx(expected, abs=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_auc_is_invariant_under_increasing_maps_and_turns_under_decreasing_ones(seed):
    rng = np.random.default_rng(seed)
    # Values apart by more than rounding, so that exp keeps them apart.
    negatives, positives = rng.permutation(np.linspace(-2, 2, 60).astype(np.float32))[:40].reshape(2, 20)
    plain = float(auc(negatives, positives))
    assert float(auc(jnp.exp(negatives), jnp.exp(positives))) == pytest.approx(plain, abs=1e-6)
    assert float(auc(-negatives, -positives)) == pytest.approx(1 - plain, abs=1e-6)
    assert float(auc(positives, negatives)) == pytest.approx(1 - plain, abs=1e-6)


def test_readings_map_over_models():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 30)), jnp.float32)
    for reading in (auc, balanced_accuracy, lambda n, p: tpr_at_fpr(n, p, 0.1)):
        together = jax.jit(jax.vmap(reading))(scores[:, 0], scores[:, 1])
        np.testing.assert_allclose(together, [reading(*pair) for pair in scores], atol=1e-6)


def test_no_leak_where_unlearned_is_as_retrained_and_a_sign_for_each_side():
    remembered, retrained, collapsed = (loss_auc(jnp.arange(4.0) + s, jnp.arange(4.0)) for s in (-1.0, 0.0, 1.0))
    assert float(retrained) == 0.5
    assert float(priv_leak(retrained, retrained)) == 0
    assert float(priv_leak(remembered, retrained)) < 0 < float(priv_leak(collapsed, retrained))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: auc(jnp.zeros(0), jnp.zeros(2)), RequestError, "negatives has"),
        (lambda: auc(jnp.zeros(2), jnp.zeros(0)), RequestError, "positives has"),
        (lambda: balanced_accuracy(jnp.zeros(0), jnp.zeros(2)), RequestError, "negatives has"),
        (lambda: tpr_at_fpr(jnp.zeros(0), jnp.zeros(2), 0.1), RequestError, "negatives has"),
        (lambda: tpr_at_fpr(jnp.zeros(2), jnp.zeros(2), 1.5), ValueError, "fpr is 1.5"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
