"""Likelihood-ratio attacks against loops, and what they must tell and must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KernelDensity

from clujax.attacks import lira, ruli, u_lira
from clujax.errors import RequestError

MODELS, EXAMPLES = 12, 30


def shadow(seed, shift, augmentations=()):
    """Scores of models with each example in half of them; an example seen scores higher by `shift`."""
    rng = np.random.default_rng(seed)
    halves = np.arange(MODELS) % 2 == 0
    assigned = np.stack([rng.permutation(halves) for _ in range(EXAMPLES)], 1)
    level = rng.normal(0, 4, EXAMPLES)
    noise = rng.normal(size=(MODELS, EXAMPLES, *augmentations))
    lift = (level + shift * assigned).reshape(MODELS, EXAMPLES, *(1 for _ in augmentations))
    return lift + noise, assigned


def published(scores, assigned, targets, fixed=False, offline=False):
    """The reference code's loop, as evidence (larger for a member)."""
    fit = [m for m in range(MODELS) if m not in targets]
    inside = [scores[fit][assigned[fit][:, q], q] for q in range(EXAMPLES)]
    outside = [scores[fit][~assigned[fit][:, q], q] for q in range(EXAMPLES)]
    rows = []
    for t in targets:
        row = []
        for q in range(EXAMPLES):
            std_in = np.std(np.concatenate(inside)) if fixed else np.std(inside[q])
            std_out = np.std(np.concatenate(inside)) if fixed else np.std(outside[q])
            if offline:
                std_out = np.std(np.concatenate(outside)) if fixed else std_out
            p_in = -stats.norm.logpdf(scores[t, q], np.median(inside[q]), std_in + 1e-30)
            p_out = -stats.norm.logpdf(scores[t, q], np.median(outside[q]), std_out + 1e-30)
            row.append(p_out if offline else p_out - p_in)
        rows.append(row)
    return rows


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("offline", [False, True])
def test_official_evidence_is_the_published_loop(x64, fixed, offline):
    scores, assigned = shadow(0, 2.0)
    ours = lira(scores, assigned, [1, 4], fixed_variance=fixed, offline=offline, official=True)
    np.testing.assert_allclose(ours, published(scores, assigned, [1, 4], fixed, offline), rtol=1e-9)


def test_the_default_differs_from_the_published_only_where_it_says(x64):
    scores, assigned = shadow(0, 2.0)
    np.testing.assert_allclose(lira(scores, assigned, [1]), lira(scores, assigned, [1], official=True), rtol=1e-12)
    ours = np.asarray(lira(scores, assigned, [1], fixed_variance=True))[0]
    fit = np.arange(MODELS) != 1
    masks = [np.where((assigned == kind) & fit[:, None], scores, np.nan) for kind in (True, False)]
    centres = [np.nanmedian(part, 0) for part in masks]
    spreads = [np.sqrt(np.nanmean((part - centre) ** 2)) for part, centre in zip(masks, centres)]
    log = [stats.norm.logpdf(scores[1], centre, spread) for centre, spread in zip(centres, spreads)]
    np.testing.assert_allclose(ours, log[0] - log[1], rtol=1e-9)
    # Offline: a score far below the law without the example is no evidence for it.
    low = scores.copy()
    low[1] = -100.0
    assert (np.asarray(lira(low, assigned, [1], offline=True)) < -5).all()
    assert (np.asarray(lira(low, assigned, [1], offline=True, official=True)) > 5).all()


def test_evidence_of_augmentations_is_averaged(x64):
    scores, assigned = shadow(0, 2.0, (3,))
    together = lira(scores, assigned, [0, 5])
    alone = [lira(scores[..., a], assigned, [0, 5]) for a in range(3)]
    np.testing.assert_allclose(together, np.mean(alone, 0), rtol=1e-9)


def test_each_model_in_turn_is_a_fit_on_all_others(x64):
    scores, assigned = shadow(1, 2.0)
    in_turn = lira(scores, assigned)
    for target in (0, 7):
        np.testing.assert_allclose(in_turn[target], lira(scores, assigned, [target])[0], rtol=1e-9)


def test_a_targets_own_scores_are_in_no_fit(x64):
    """Evidence about model 3 does not move with the scores of model 8, when both are targets."""
    scores, assigned = shadow(1, 2.0)
    moved = scores.copy()
    moved[8] += 50
    for attack in (lira, ruli):
        np.testing.assert_array_equal(attack(scores, assigned, [3, 8])[0], attack(moved, assigned, [3, 8])[0])


def test_ruli_is_a_ratio_of_scikit_learns_densities(x64):
    scores, assigned = shadow(2, 2.0)
    ours = np.asarray(ruli(scores, assigned, [0], bandwidth=0.7))[0]
    for q in range(5):
        density = []
        for kind in (True, False):
            rows = scores[1:][assigned[1:, q] == kind, q][:, None]
            fitted = KernelDensity(kernel="gaussian", bandwidth=0.7).fit(rows)
            density.append(np.exp(fitted.score_samples(scores[:1, q : q + 1]))[0])
        assert ours[q] == pytest.approx(density[0] / sum(density), rel=1e-9)


@pytest.mark.parametrize("attack", [lira, ruli])
def test_audit_tells_a_leak_and_finds_none_where_there_is_none(attack):
    leak, none = (u_lira(*shadow(3, shift), attack=attack) for shift in (6.0, 0.0))
    assert float(leak.auc) > 0.98
    assert float(leak.balanced_accuracy) > 0.95
    assert float(leak.tpr_at_fpr_01) > 0.5
    assert abs(float(none.auc) - 0.5) < 0.1
    assert float(none.tpr_at_fpr_01) < 0.1
    assert leak.evidence.shape == (MODELS, EXAMPLES)


def test_audit_turns_over_when_assigned_is_turned():
    scores, assigned = shadow(4, 1.5)
    turned = u_lira(scores, ~assigned, [0, 1, 2])
    assert float(turned.auc) == pytest.approx(float(u_lira(scores, assigned, [0, 1, 2]).auc), abs=1e-5)
    np.testing.assert_allclose(turned.evidence, -lira(scores, assigned, [0, 1, 2]), rtol=1e-3, atol=1e-3)


def test_equal_scores_give_finite_evidence():
    assigned = shadow(0, 1.0)[1]
    for settings in ({}, {"fixed_variance": True}, {"offline": True}):
        assert np.isfinite(lira(jnp.ones((MODELS, EXAMPLES)), assigned, [0], **settings)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, a: lira(s, a[:-1]), "expected"),
        (lambda s, a: lira(s, a, [MODELS]), "targets are"),
        (lambda s, a: lira(s, a, []), "at least one"),
        (lambda s, a: lira(s, a | True, [0]), "0 models without it"),
        (lambda s, a: lira(s, a & False, [0]), "0 models with it"),
        (lambda s, a: lira(s[:4], np.repeat([[True], [True], [False], [False]], EXAMPLES, 1)), "1 models with it"),
        (lambda s, a: u_lira(s, np.where(np.arange(MODELS)[:, None] < 2, True, a), [0, 1]), "all had"),
        (lambda s, a: u_lira(s, np.where(np.arange(MODELS)[:, None] < 2, False, a), [0, 1]), "never had"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(RequestError, match=message):
        call(*shadow(0, 1.0))


def test_bandwidth_is_positive():
    with pytest.raises(ValueError, match="bandwidth is 0"):
        ruli(*shadow(0, 1.0), bandwidth=0.0)


def test_offline_needs_no_model_with_the_example():
    scores, assigned = shadow(0, 1.0)
    assert np.isfinite(lira(scores, assigned & False, [0], offline=True)).all()
    assert jax.numpy.shape(lira(scores, assigned & False, [0], offline=True)) == (1, EXAMPLES)
