"""Where the answer is known: after exact unlearning every number of the table is retraining's, after inexact it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from clujax import attacks
from clujax.geometry import featurize, fourier_features
from clujax.unlearning import evaluate, summary
from clujax.unlearning import random_features as bed

REMAIN, FORGET, UNSEEN = 90, 30, 200


@pytest.fixture(scope="module")
def weights():
    """Digits on random features: retrained, and deleted by right labels, by wrong labels and by a bad teacher."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: REMAIN + FORGET + UNSEEN]
    with jax.enable_x64(True):
        phi = featurize(fourier_features(jax.random.key(0), 64, 300, 14.0), x[order])
        targets = jax.nn.one_hot(y[order], 10, dtype=jnp.float64)
        start = 0.1 * jax.random.normal(jax.random.key(1), (600, 10), jnp.float64)
        remain, forget = phi[:REMAIN], phi[REMAIN : REMAIN + FORGET]
        both, known = phi[: REMAIN + FORGET], targets[:REMAIN]
        trained = bed.sgd_limit(both, targets[: REMAIN + FORGET], start)
        after = lambda labels: bed.sgd_limit(both, jnp.concatenate([known, labels]), trained)
        exact = bed.exact_relabel(forget, remain, known, start)
        walked = bed.cyclic_sgd(both, jnp.concatenate([known, exact]), trained, tolerance=1e-6)
        found = {
            "retrain": bed.sgd_limit(remain, known, start),
            "original": trained,
            "closed form": bed.delete_rows(forget, remain, known, trained, start),
            "sgd": walked.weights,
            "random label": after(jnp.roll(targets[REMAIN : REMAIN + FORGET], 3, axis=1)),
            "bad teacher": after(forget @ jax.random.normal(jax.random.key(2), start.shape, jnp.float64)),
        }
        assert float(walked.residual) <= 1e-6
        sides = {
            "remain": slice(REMAIN),
            "forget": slice(REMAIN, REMAIN + FORGET),
            "unseen": slice(REMAIN + FORGET, None),
        }
        labels = y[order].astype(np.int32)
        caches = {
            name: {side: (np.asarray(10 * phi[rows] @ w, np.float32), labels[rows]) for side, rows in sides.items()}
            for name, w in found.items()
        }
        norm = float(jnp.linalg.norm(found["retrain"]))
        distance = {name: float(jnp.linalg.norm(w - found["retrain"])) / norm for name, w in found.items()}
    values = {name: evaluate(cache, None if name == "retrain" else caches["retrain"]) for name, cache in caches.items()}
    values = {name: row | summary(row, values["retrain"]) for name, row in values.items()}
    return distance, values, caches


def test_weights_are_the_retrained_ones(weights):
    distance, _, _ = weights
    assert distance["closed form"] < 1e-10
    assert distance["sgd"] < 1e-5
    assert min(distance[name] for name in ("original", "random label", "bad teacher")) > 1e-2


@pytest.mark.parametrize("network", ["closed form", "sgd"])
def test_every_number_is_that_of_retraining(weights, network):
    _, values, _ = weights
    ideal = {"KL": 0, "JS": 0, "Act": 0, "Agree": 100, "AvgD": 0, "AvgGap": 0, "ToW": 1, "ToW_MIA": 1, "PrivLeak": 0}
    for key, value in values[network].items():
        expected = ideal.get(key, values["retrain"].get(key))
        assert value == pytest.approx(expected, abs=1e-4), key


@pytest.mark.parametrize("network", ["original", "random label", "bad teacher"])
def test_inexact_deletions_are_found_out(weights, network):
    """By the outputs, and by at least one attack far beyond a row's weight."""
    _, values, _ = weights
    assert values[network]["KL"] > 0.05
    privacy = ("MIA", "SVC", "SVC_entropy", "SVC_m", "Threshold", "LossCV")
    gaps = {key: abs(values[network][key] - values["retrain"][key]) for key in privacy}
    assert max(gaps.values()) > 3 * 100 / FORGET, gaps


def test_thresholds_agree_too_and_know_the_rows_that_were_never_deleted(weights):
    _, _, caches = weights

    def numbers(cache):
        scores = {side: (-attacks.m_entropy(*map(jnp.asarray, part)), part[1]) for side, part in cache.items()}
        return attacks.threshold_attack(scores["remain"], scores["unseen"], scores["forget"], scores["unseen"])

    assert numbers(caches["closed form"]) == pytest.approx(numbers(caches["retrain"]), abs=1e-6)
    assert numbers(caches["original"])[0] > numbers(caches["retrain"])[0] + 50
