"""The attacks against scikit-learn's own answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from clujax.geometry import entropy
from clujax.unlearning import entropy_attack, fit_logistic


@pytest.mark.parametrize(
    ("shift", "scale", "members", "strangers"), [(1.0, 1.0, 300, 80), (0.1, 30.0, 50, 400), (0.3, 1e-3, 90, 90)]
)
def test_logistic_is_scikit_learns(x64, shift, scale, members, strangers):
    rng = np.random.default_rng(0)
    inside = scale * rng.normal(shift, 1, members)
    outside = scale * rng.normal(0, 1.5, strangers)
    score = np.concatenate([inside, outside])[:, None]
    label = np.repeat([1, 0], [members, strangers])
    theirs = LogisticRegression(class_weight="balanced", tol=1e-12, max_iter=10_000).fit(score, label)
    ours = fit_logistic(jnp.asarray(inside), jnp.asarray(outside))
    np.testing.assert_allclose(ours.slope, theirs.coef_[0, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_[0], rtol=1e-4, atol=1e-6)


def test_entropy_attack_makes_scikit_learns_decisions():
    key = jax.random.split(jax.random.key(1), 3)
    remain = 6 * jax.random.normal(key[0], (400, 10))
    unseen = 3 * jax.random.normal(key[1], (300, 10))
    forget = 4 * jax.random.normal(key[2], (120, 10))
    score = np.concatenate([entropy(remain), entropy(unseen)])[:, None]
    theirs = LogisticRegression(class_weight="balanced").fit(score, np.repeat([1, 0], [400, 300]))
    expected = 100 * theirs.predict(np.asarray(entropy(forget))[:, None]).mean()
    assert float(entropy_attack(remain, unseen, forget)) == pytest.approx(expected, abs=100 / 120 + 1e-6)


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
