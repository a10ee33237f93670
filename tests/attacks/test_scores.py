"""Scores against their formulas in float64, at their ends, and the published forms against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.attacks import (
    confidence,
    correctness,
    cross_entropy,
    entropy,
    m_entropy,
    scaled_confidence,
)
from clujax.errors import RequestError

LOGITS = 3 * np.random.default_rng(0).normal(size=(40, 6))
LABELS = np.random.default_rng(1).integers(0, 6, 40).astype(np.int32)
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
OWN = P[np.arange(40), LABELS]


def song_mittal(p, label):
    total = -(1 - p[label]) * np.log(p[label])
    for c in range(len(p)):
        if c != label:
            total -= p[c] * np.log(1 - p[c])
    return total


def published_m_entropy(p, labels):
    values = []
    for row in p:
        total = 0.0
        for c in range(len(row)):
            log = np.log(row[c]) if row[c] > 0 else np.log(1e-30)
            total -= (1 - row[c] if c in labels else row[c]) * log
        values.append(total)
    return values


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (confidence, OWN),
        (cross_entropy, -np.log(OWN)),
        (correctness, LOGITS.argmax(-1) == LABELS),
        (scaled_confidence, np.log(OWN) - np.log(1 - OWN)),
        (m_entropy, [song_mittal(p, y) for p, y in zip(P, LABELS)]),
    ],
)
def test_scores_are_their_formulas(x64, score, expected):
    np.testing.assert_allclose(score(jnp.asarray(LOGITS), LABELS), expected, rtol=1e-10)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3, 4, 5], [2], [1, 4]])
def test_official_m_entropy_is_the_published_loop(x64, classes):
    """Every column of a label that occurs is flipped for every row."""
    labels = np.resize(classes, 40)
    ours = m_entropy(jnp.asarray(LOGITS), labels, official=True)
    np.testing.assert_allclose(ours, published_m_entropy(P, set(classes)), rtol=1e-10)


def test_official_m_entropy_depends_on_its_company_and_the_correct_one_does_not(x64):
    alone = jnp.asarray(LOGITS[:1]), LABELS[:1]
    among = jnp.asarray(LOGITS), LABELS
    assert m_entropy(*alone)[0] == pytest.approx(float(m_entropy(*among)[0]), rel=1e-12)
    assert abs(m_entropy(*alone, official=True)[0] - m_entropy(*among, official=True)[0]) > 0.1


def test_m_entropy_is_zero_for_a_sure_right_row_and_at_the_floor_for_a_sure_wrong_one():
    sure = 300 * jnp.eye(4)[:1]
    assert m_entropy(sure, jnp.array([0]))[0] == 0
    # −log p_y and −log(1 − p_top) both stop at log 1e-30, each with mass 1.
    assert m_entropy(sure, jnp.array([2]))[0] == pytest.approx(-2 * np.log(1e-30), rel=1e-6)


def test_m_entropy_keeps_float64_accuracy_in_float32_on_sure_rows():
    """1 − p of the largest class is below float32's resolution here."""
    logits = np.array([[20.0, 0.0, -1.0], [0.0, 21.0, 3.0]], np.float32)
    labels = np.array([0, 2])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    expected = [song_mittal(row, y) for row, y in zip(p, labels)]
    np.testing.assert_allclose(m_entropy(jnp.asarray(logits), labels), expected, rtol=1e-5, atol=1e-12)


def test_scaled_confidence_orders_rows_that_float32_probabilities_cannot():
    logits = jnp.array([[40.0, 0.0], [50.0, 0.0], [400.0, 0.0]])
    labels = jnp.zeros(3, int)
    assert len(set(confidence(logits, labels).tolist())) == 1
    np.testing.assert_allclose(scaled_confidence(logits, labels), [40, 50, 400], rtol=1e-6)


def test_official_scaled_confidence_is_the_published_loop(x64):
    logits = np.array([[40.0, 0, 1], [400.0, 0, 1], [1.0, 400, 2]])
    values = []
    for row in logits:
        p = np.exp(row - row.max())
        p /= p.sum()
        values.append(np.log(p[0] + 1e-45) - np.log(p[1:].sum() + 1e-45))
    ours = scaled_confidence(jnp.asarray(logits), np.zeros(3, int), official=True)
    np.testing.assert_allclose(ours, values, rtol=1e-10)


@pytest.mark.parametrize("score", [confidence, correctness, cross_entropy, m_entropy, scaled_confidence])
def test_scores_map_over_models_and_compile(score):
    logits = jnp.asarray(np.stack([LOGITS, LOGITS[::-1]]), jnp.float32)
    stacked = jax.jit(jax.vmap(score, (0, None)))(logits, LABELS)
    np.testing.assert_allclose(stacked, [score(one, LABELS) for one in logits], rtol=1e-5)
    with pytest.raises(RequestError, match=r"labels has shape \(39,\); expected one per row, \(40,\)"):
        score(LOGITS, LABELS[1:])


def test_entropy_is_the_ground_floors():
    assert entropy(jnp.zeros((1, 8)))[0] == pytest.approx(np.log(8), rel=1e-6)
