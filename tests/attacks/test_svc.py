"""The support-vector machine against libsvm, its identities, and the attacks made of it."""

import jax
import numpy as np
import pytest
from sklearn.svm import SVC as Theirs

from clujax.attacks import (
    confidence,
    correctness,
    cross_entropy,
    decide,
    entropy,
    fit_svc,
    m_entropy,
    scaled_confidence,
    svc_attack,
    training_privacy,
)
from clujax.attacks.interior_point import kernel_dual
from clujax.attacks.rbf_features import line_features, low_rank_features, rbf
from clujax.errors import RequestError


def probabilities(logits, labels):
    return np.asarray(jax.nn.softmax(logits))


FEATURES = {
    "confidence": confidence,
    "entropy": lambda logits, labels: entropy(jax.numpy.asarray(logits)),
    "m_entropy": m_entropy,
    "correctness": correctness,
    "loss": cross_entropy,
    "scaled": scaled_confidence,
    "probabilities": probabilities,
}


def libsvm(members, strangers, penalty=3.0, tol=1e-7):
    column = lambda rows: np.asarray(rows, np.float64).reshape(len(rows), -1)
    rows = np.concatenate([column(members), column(strangers)])
    machine = Theirs(C=penalty, gamma="auto", tol=tol).fit(rows, np.repeat([1, 0], [len(members), len(strangers)]))
    return lambda forget: machine.decision_function(column(forget))


@pytest.mark.parametrize("feature", FEATURES)
def test_machine_is_libsvms(network, feature):
    """Unequal numbers, 560 rows; correctness has but two values, and float32 confidences many equal ones."""
    remain, unseen, forget = (np.asarray(FEATURES[feature](*network[n])) for n in ("remain", "unseen", "forget"))
    ours, theirs = decide(fit_svc(remain, unseen), forget), libsvm(remain, unseen)(forget)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_array_equal(ours > 0, theirs > 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_machine_is_libsvms_on_any_sizes_and_penalties(seed, penalty):
    rng = np.random.default_rng(seed)
    members, strangers = rng.beta(6, 1, rng.integers(1, 80)), rng.beta(2, 1, rng.integers(1, 80))
    forget = rng.random(50)
    ours, theirs = decide(fit_svc(members, strangers, penalty=penalty), forget), libsvm(members, strangers, penalty)
    np.testing.assert_allclose(ours, theirs(forget), atol=2e-3)


def test_bias_without_a_row_inside_its_bounds_is_the_middle():
    """One row of each kind and a penalty that both exhaust: f is symmetric."""
    machine = fit_svc(np.array([0.0]), np.array([1.0]), penalty=0.01)
    assert machine.bias == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(np.abs(machine.coefficients), 0.01, rtol=1e-6)
    assert decide(machine, np.array([0.5]))[0] == pytest.approx(0, abs=1e-9)


def test_dual_is_optimal():
    """KKT: within bounds, balanced, and margins on the right side of 1, on a kernel of full rank."""
    rng = np.random.default_rng(0)
    x, sign = rng.normal(size=(60, 3)), np.where(rng.random(60) < 0.4, 1.0, -1.0)
    kernel = rbf(x, x, 1.0)
    bound = rng.uniform(0.5, 2, 60)
    a, bias = kernel_dual(low_rank_features(x, 1.0), sign, bound)
    margin = sign * (kernel @ (a * sign) + bias)
    assert abs(a @ sign) < 1e-6
    assert ((a > 0) & (a < bound)).all()
    assert (margin[a < 1e-6] > 1 - 1e-5).all()
    assert (margin[a > bound - 1e-6] < 1 + 1e-5).all()
    np.testing.assert_allclose(margin[(a > 1e-4) & (a < bound - 1e-4)], 1, atol=1e-5)


@pytest.mark.parametrize("feature", ["confidence", "probabilities"])
def test_rows_twice_at_half_the_penalty_are_the_same_machine(network, feature):
    remain, unseen, forget = (np.asarray(FEATURES[feature](*network[n])) for n in ("remain", "unseen", "forget"))
    remain, unseen = remain[:80], unseen[:60]
    once = decide(fit_svc(remain, unseen), forget)
    twice = decide(fit_svc(np.concatenate([remain] * 2), np.concatenate([unseen] * 2), penalty=1.5), forget)
    np.testing.assert_allclose(once, twice, atol=1e-5)


def test_machine_is_blind_to_the_order_of_rows_and_turns_sign_with_the_kinds(network):
    remain, unseen, forget = (np.asarray(confidence(*network[n])) for n in ("remain", "unseen", "forget"))
    straight = decide(fit_svc(remain, unseen), forget)
    np.testing.assert_allclose(decide(fit_svc(remain[::-1], unseen), forget), straight, atol=1e-9)
    np.testing.assert_allclose(decide(fit_svc(unseen, remain), forget), -straight, atol=1e-6)


def dense(features, count):
    return np.stack([features.transpose(row) for row in np.eye(count)])


@pytest.mark.parametrize("gamma", [1.0, 0.03, 50.0])
def test_features_on_a_line_are_the_kernels(gamma):
    """Near rows, far ones, and a gap that takes no columns."""
    x = np.concatenate([np.linspace(0, 3, 40), [17.0, -1e7, 400.5, 401.0]])
    features = line_features(x, gamma)
    factor = dense(features, len(x))
    np.testing.assert_allclose(factor @ factor.T, np.exp(-gamma * (x[:, None] - x) ** 2), atol=1e-12)
    assert features.size < 1500


def test_low_rank_features_are_the_kernels():
    x = np.random.default_rng(0).normal(size=(50, 3))
    factor = dense(low_rank_features(x, 0.1, 1e-12), 50)
    np.testing.assert_allclose(factor @ factor.T, rbf(x, x, 0.1), atol=1e-11)


@pytest.mark.parametrize("kind", ["line", "low rank"])
def test_products_with_features_are_the_dense_ones(kind):
    rng = np.random.default_rng(0)
    x = 20 * rng.normal(size=(30, 1))
    features = line_features(x[:, 0], 1.0) if kind == "line" else low_rank_features(x, 1.0)
    factor, w, scale = dense(features, 30), rng.normal(size=features.size), rng.random(30)
    np.testing.assert_allclose(features.apply(w), factor @ w, atol=1e-12)
    system = np.eye(features.size) + factor.T @ (scale[:, None] * factor)
    np.testing.assert_allclose(features.normal(scale)(w), np.linalg.solve(system, w), atol=1e-10)


def test_decisions_far_from_all_rows_are_the_kernels():
    rng = np.random.default_rng(0)
    members, strangers, far = rng.normal(1, 1, 200), rng.normal(-1, 1, 200), np.linspace(-9, 9, 61)
    machine = fit_svc(members, strangers)
    kernel = np.exp(-machine.gamma * (far[:, None] - machine.support.T) ** 2)
    np.testing.assert_allclose(decide(machine, far), kernel @ machine.coefficients + machine.bias, atol=1e-9)


def test_attack_counts_forget_rows_on_the_strangers_side(network):
    remain, unseen, forget = (np.asarray(confidence(*network[n])) for n in ("remain", "unseen", "forget"))
    expected = lambda members, strangers: pytest.approx(100 * np.mean(libsvm(members, strangers)(forget) <= 0))
    assert svc_attack(remain, unseen, forget, official=True) == expected(remain[:240], unseen)
    key = jax.random.key(0)
    drawn = np.asarray(jax.random.permutation(key, 320))[:240]
    assert svc_attack(remain, unseen, forget, key) == expected(remain[drawn], unseen)
    # Fewer members than strangers: the strangers are drawn.
    drawn = np.asarray(jax.random.permutation(key, 240))[:90]
    assert svc_attack(remain[:90], unseen, forget, key) == expected(remain[:90], unseen[drawn])


def test_training_privacy_is_the_published_halves(network):
    remain, unseen = (np.asarray(confidence(*network[n])) for n in ("remain", "unseen"))

    def expected(members, strangers, half):
        called = libsvm(members[:half], strangers[:half])
        return pytest.approx(50 * (np.mean(called(members[half:]) > 0) + np.mean(called(strangers[half:]) <= 0)))

    assert training_privacy(remain, unseen, official=True) == expected(remain, unseen, 120)
    assert training_privacy(remain[:100], unseen[:100]) == expected(remain[:100], unseen[:100], 50)
    # Rows that a cut tells apart: all other halves are called right, in any order.
    apart = np.linspace(0, 0.4, 20), np.linspace(0.6, 1, 30)
    assert training_privacy(*apart, jax.random.key(0)) == 100


P3 = np.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit_svc(np.zeros(0), np.ones(3)), RequestError, "members has shape"),
        (lambda: fit_svc(np.ones(3), np.zeros(0)), RequestError, "strangers has shape"),
        (lambda: fit_svc(np.array([0.0, np.nan]), np.ones(3)), RequestError, "members has 1 values"),
        (lambda: fit_svc(np.ones((2, 3)), np.ones((2, 4))), RequestError, "features differ"),
        (lambda: fit_svc(np.ones(3), np.zeros(3), penalty=0.0), ValueError, "penalty is 0"),
        (lambda: fit_svc(np.ones(3), np.zeros(3), gamma=-1.0), ValueError, "gamma is -1"),
        (lambda: decide(fit_svc(np.ones(3), np.zeros(3)), np.ones((2, 2))), RequestError, "fitted on 1"),
        (lambda: svc_attack(np.ones(4), np.zeros(3), np.ones(2)), RequestError, "give a key"),
        (lambda: svc_attack(P3, 2 * P3, P3), RequestError, r"strangers: row 0 sums to 2"),
        (lambda: svc_attack(P3, P3, np.log(P3)), RequestError, r"forget: row 0 sums to"),
        (lambda: svc_attack(P3, P3, np.array([[2.0, -1, 0]])), RequestError, r"least entry -1"),
        (lambda: training_privacy(np.ones(1), np.zeros(1)), RequestError, "half of the strangers"),
        (lambda: training_privacy(np.ones(4), np.zeros(3)), RequestError, "give a key"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_large_kernel_of_high_rank_says_how_to_subsample(monkeypatch):
    monkeypatch.setattr("clujax.attacks.rbf_features.DENSE_ROWS", 20)
    monkeypatch.setattr("clujax.attacks.rbf_features.MAX_RANK", 10)
    rows = np.random.default_rng(0).normal(size=(30, 8))
    with pytest.raises(RequestError, match=r"60 distinct rows .* Subsample both sets"):
        fit_svc(rows, 1 + rows)
    fit_svc(rows[:10], 1 + rows[:10])
