"""The logistic attacks against scikit-learn's own answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

from clujax.attacks import cross_entropy, loss_attack
from clujax.errors import RequestError
from clujax.geometry import entropy
from clujax.unlearning import entropy_attack, fit_logistic

CASES = [(1.0, 1.0, 300, 80), (0.1, 30.0, 50, 400), (0.3, 1e-3, 90, 90)]


def two_sets(shift, scale, members, strangers, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(shift, 1, members), scale * rng.normal(0, 1.5, strangers)


def scikit_learns(inside, outside, weights=None, **settings):
    score = np.concatenate([inside, outside])[:, None]
    label = np.repeat([1, 0], [len(inside), len(outside)])
    return LogisticRegression(tol=1e-12, max_iter=10_000, **settings).fit(score, label, weights)


@pytest.mark.parametrize(("balanced", "penalty"), [(True, 1.0), (False, 1.0), (True, 2.0)])
@pytest.mark.parametrize(("shift", "scale", "members", "strangers"), CASES)
def test_logistic_is_scikit_learns(x64, shift, scale, members, strangers, balanced, penalty):
    inside, outside = two_sets(shift, scale, members, strangers)
    theirs = scikit_learns(inside, outside, C=penalty, class_weight="balanced" if balanced else None)
    ours = fit_logistic(jnp.asarray(inside), jnp.asarray(outside), balanced=balanced, penalty=penalty)
    np.testing.assert_allclose(ours.slope, theirs.coef_[0, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_[0], rtol=1e-4, atol=1e-6)


def test_weights_are_scikit_learns_sample_weights(x64):
    inside, outside = two_sets(1.0, 1.0, 60, 40)
    weights = np.random.default_rng(3).random(100)
    theirs = scikit_learns(inside, outside, weights)
    ours = fit_logistic(jnp.asarray(inside), jnp.asarray(outside), balanced=False, weights=(weights[:60], weights[60:]))
    np.testing.assert_allclose([ours.slope, ours.intercept], [theirs.coef_[0, 0], theirs.intercept_[0]], rtol=1e-6)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_row_of_weight_zero_is_absent(x64, balanced):
    inside, outside = (jnp.asarray(part) for part in two_sets(1.0, 1.0, 60, 40))
    padded = jnp.concatenate([inside, jnp.full(9, 1e3)])
    weights = jnp.concatenate([jnp.ones(60), jnp.zeros(9)])
    ours = fit_logistic(padded, outside, balanced=balanced, weights=(weights, jnp.ones(40)))
    np.testing.assert_allclose(ours, fit_logistic(inside, outside, balanced=balanced), rtol=1e-6)


def test_logistic_maps_over_models():
    sets = [two_sets(1.0, 1.0, 50, 30, seed) for seed in range(3)]
    inside, outside = (jnp.asarray(np.stack(part), jnp.float32) for part in zip(*sets))
    together = jax.vmap(fit_logistic)(inside, outside)
    one_by_one = [fit_logistic(a, b) for a, b in zip(inside, outside)]
    np.testing.assert_allclose(together.slope, [m.slope for m in one_by_one], rtol=1e-4)


def test_entropy_attack_makes_scikit_learns_decisions():
    key = jax.random.split(jax.random.key(1), 3)
    remain = 6 * jax.random.normal(key[0], (400, 10))
    unseen = 3 * jax.random.normal(key[1], (300, 10))
    forget = 4 * jax.random.normal(key[2], (120, 10))
    theirs = scikit_learns(entropy(remain), entropy(unseen), class_weight="balanced")
    expected = 100 * theirs.predict(np.asarray(entropy(forget))[:, None]).mean()
    assert float(entropy_attack(remain, unseen, forget)) == pytest.approx(expected, abs=1e-4)


def test_attack_on_separated_scores_stays_finite():
    """Perfectly confident members and uniform strangers: the fit separates and must not overflow."""
    remain = jnp.eye(10)[jnp.arange(50) % 10] * 200
    unseen = jnp.zeros((60, 10))
    assert float(entropy_attack(remain, unseen, remain[:7])) == 100
    assert float(entropy_attack(remain, unseen, unseen[:7])) == 0


def test_attack_on_identical_scores_is_a_number():
    """No information at all: every score equal."""
    same = jnp.zeros((30, 10))
    assert 0 <= float(entropy_attack(same, same, same)) <= 100


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_attack_is_blind_to_the_order_of_rows(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    remain, unseen, forget = (3 * jax.random.normal(k, (40, 5)) for k in keys[:3])
    shuffled = jax.random.permutation(keys[3], remain)
    assert float(entropy_attack(remain, unseen, forget)) == pytest.approx(
        float(entropy_attack(shuffled, unseen, forget)), abs=2.6
    )


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_loss_attack_is_scikit_learns_cross_validation(x64, shift):
    """Other splits, the same law: means over many splits agree within their noise."""
    inside, outside = two_sets(shift, 2.0, 500, 200)
    ours = loss_attack(jnp.asarray(inside), jnp.asarray(outside), jax.random.key(0), splits=200)
    rng = np.random.default_rng(0)
    theirs = []
    for seed in range(10):  # their subsample anew, as its choice weighs more than the splits
        rows = np.concatenate([rng.permutation(inside)[:200], outside])[:, None]
        splits = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=seed)
        theirs.append(cross_val_score(LogisticRegression(), rows, np.repeat([1, 0], 200), cv=splits).mean())
    assert float(ours) == pytest.approx(100 * np.mean(theirs), abs=3.5)


def test_loss_attack_tells_separated_losses_and_not_equal_ones():
    key = jax.random.key(0)
    assert float(loss_attack(jnp.linspace(0, 1, 30), jnp.linspace(5, 6, 50), key)) == 100
    # Equal losses: the fit has no slope, and the sign of its intercept calls all rows one kind.
    assert float(loss_attack(jnp.ones(30), jnp.ones(50), key)) == 50


def test_clip_bounds_what_a_single_loss_can_do():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 100), rng.normal(3, 1, 100)
    wild = np.concatenate([inside[:-1], [1e8]])
    key = jax.random.key(0)
    told = float(loss_attack(jnp.asarray(inside), jnp.asarray(outside), key))
    assert float(loss_attack(jnp.asarray(wild), jnp.asarray(outside), key, clip=10.0)) == pytest.approx(told, abs=6)
    assert float(loss_attack(jnp.asarray(wild), jnp.asarray(outside), key)) < told - 20


def test_loss_attack_reads_cached_logits_in_one_program(network):
    losses = {name: cross_entropy(*rows) for name, rows in network.items()}
    attack = jax.jit(lambda forget, unseen, key: loss_attack(forget, unseen, key, splits=5, clip=100.0))
    assert 50 < float(attack(losses["remain"], losses["unseen"], jax.random.key(0))) < 80


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: entropy_attack(jnp.zeros((0, 3)), jnp.zeros((4, 3)), jnp.zeros((4, 3))), RequestError, "remain has"),
        (lambda: entropy_attack(jnp.zeros((4, 3)), jnp.zeros((0, 3)), jnp.zeros((4, 3))), RequestError, "unseen has"),
        (lambda: entropy_attack(jnp.zeros((4, 3)), jnp.zeros((4, 3)), jnp.zeros((4, 5))), RequestError, "one C"),
        (lambda: fit_logistic(jnp.zeros(0), jnp.zeros(4)), RequestError, "members has"),
        (
            lambda: fit_logistic(jnp.zeros(3), jnp.zeros(4), weights=(jnp.ones(3), jnp.ones(3))),
            RequestError,
            "weights of strangers",
        ),
        (lambda: loss_attack(jnp.zeros(1), jnp.zeros(9), jax.random.key(0)), RequestError, "at least 2"),
        (lambda: loss_attack(jnp.zeros(9), jnp.zeros(9), jax.random.key(0), splits=0), ValueError, "splits is 0"),
        (lambda: loss_attack(jnp.zeros(9), jnp.zeros(9), jax.random.key(0), test_share=1.0), ValueError, "test_share"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
