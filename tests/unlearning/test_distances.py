"""Distances against a few lines of numpy, in their limits, and beside the published forms that differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.unlearning import distances


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 3, (2, 50, 7)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("order", [1, 2])
def test_activation_distance_is_the_mean_norm(logits, order):
    p, q = softmax(logits)
    expected = np.mean((np.abs(p - q) ** order).sum(-1) ** (1 / order))
    assert float(distances.activation_distance(*logits, order=order)) == pytest.approx(expected, rel=1e-5)
    assert float(distances.activation_distance(logits[0], logits[0])) == 0


def test_distances_take_a_leading_axis_of_models(logits):
    models = jnp.stack([logits[0], logits[1], logits[0] + logits[1]])
    for measure in (distances.activation_distance, distances.zrf, distances.agreement):
        one_by_one = [float(measure(each, logits[1])) for each in models]
        np.testing.assert_allclose(measure(models, jnp.broadcast_to(logits[1], models.shape)), one_by_one, rtol=1e-5)


def test_zrf_is_one_for_an_untrained_network_and_zero_for_disjoint_beliefs(logits):
    assert float(distances.zrf(logits[0], logits[0])) == pytest.approx(1)
    sure, other = 100 * jax.nn.one_hot(jnp.zeros(4, int), 3), 100 * jax.nn.one_hot(jnp.ones(4, int), 3)
    assert float(distances.zrf(sure, other)) == pytest.approx(0, abs=1e-6)


def test_official_zrf_is_the_published_loop(logits):
    """½ kl_div(log p, m) + ½ kl_div(log q, m), each averaged over rows and classes alike."""
    p, q = softmax(logits.astype(np.float64))
    m = (p + q) / 2
    expected = 1 - 0.5 * np.mean(m * np.log(m / p)) - 0.5 * np.mean(m * np.log(m / q))
    assert float(distances.zrf(*logits, official=True)) == pytest.approx(expected, rel=1e-5)
    assert distances.zrf(*logits, official=True) > distances.zrf(*logits)  # it hides most of the divergence


def test_tug_of_war_of_retraining_is_one():
    values = {"FA": 80.0, "RA": 99.0, "TA": 85.0, "MIA": 40.0}
    assert distances.tug_of_war(values, values) == 1
    moved = values | {"FA": 90.0, "TA": 80.0}
    assert distances.tug_of_war(moved, values) == pytest.approx(0.9 * 0.95)
    assert distances.tug_of_war(moved | {"MIA": 60.0}, values, "MIA") == pytest.approx(0.8 * 0.95)


def test_class_confusion_counts_the_two_classes_only():
    labels = jnp.array([0, 0, 1, 1, 2, 2])
    guesses = jnp.array([1, 0, 0, 2, 0, 1])
    found = distances.class_confusion(jax.nn.one_hot(guesses, 3), labels, (0, 1))
    assert int(found["count"]) == 2  # the first 0 and the first 1
    assert float(found["error"]) == pytest.approx(2 / 4)


def test_entanglement_falls_as_the_sets_part():
    rng = np.random.default_rng(1)
    remain, forget = rng.normal(size=(80, 5)), rng.normal(size=(30, 5))
    near, far = distances.entanglement(remain, forget + 1.0), distances.entanglement(remain, forget + 10.0)
    assert float(far) < float(near) / 50
    every = np.concatenate([remain, forget + 1.0])
    within = [((x - x.mean(0)) ** 2).sum(-1).mean() for x in (remain, forget + 1.0)]
    between = [((x.mean(0) - every.mean(0)) ** 2).sum() for x in (remain, forget + 1.0)]
    assert float(near) == pytest.approx(sum(within) / (0.5 * sum(between)), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 10))
def test_parameter_distance_is_relative(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = ({"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(2))
    scaled = [jax.tree.map(lambda leaf: scale * leaf, tree) for tree in (a, b)]
    assert float(distances.parameter_distance(*scaled)) == pytest.approx(
        float(distances.parameter_distance(a, b)), rel=1e-4
    )
    assert float(distances.parameter_distance(a, a)) == 0
