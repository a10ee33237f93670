"""Forgetting quality against loops over all intervals and over the published grid, and its null."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.attacks import (
    challenge_score,
    example_scores,
    forget_epsilon,
    forget_score,
    null_score,
)
from clujax.errors import RequestError


def rule(fpr, fnr):
    if fpr == 0 and fnr == 0:
        return 50.0
    if fpr < 1e-12 or fnr < 1e-12:
        return 0.0
    with np.errstate(all="ignore"):
        one, other = np.log(1 - 1e-5 - fpr) - np.log(fnr), np.log(1 - 1e-5 - fnr) - np.log(fpr)
    return min(50.0, float(np.nanmax([0.0, one, other])))


def by_loops(first, second, official=False):
    low, high = sorted((first, second), key=np.median)
    narrow, wide = sorted((first, second), key=np.ptp)
    values = np.sort(np.concatenate([first, second]))
    if np.ptp(narrow) < 0.01 * np.ptp(wide):
        return 50.0
    if official:
        extent = np.ptp(values)
        cuts = np.linspace(values[0], values[-1], int(np.ceil(100 * extent)))
        ends = np.linspace(narrow.max() - 2, narrow.max() + 2, 400)
        left = (ends[:, None] - np.ptp(narrow) + np.linspace(-2, 2, 400)).ravel()
        right = np.repeat(ends, 400)
    else:
        cuts = values
        left, right = (grid.ravel() for grid in np.meshgrid(values, values))
        left, right = left[left <= right], right[left <= right]
    found = [rule(np.mean(low >= t), np.mean(high < t)) for t in cuts]
    share = lambda rows: np.mean((rows[:, None] >= left) & (rows[:, None] <= right), 0)
    rates = set(zip(share(wide).tolist(), (1 - share(narrow)).tolist()))
    return max(found + [rule(fpr, fnr) for fpr, fnr in rates])


@pytest.mark.parametrize(("models", "shift", "scale"), [(4, 0.5, 1.0), (9, 0.0, 1.0), (16, 1.5, 0.4), (7, 9.0, 1.0)])
def test_epsilon_is_the_best_of_all_intervals(x64, models, shift, scale):
    rng = np.random.default_rng(models)
    unlearned, retrained = rng.normal(size=(models, 15)), rng.normal(shift, scale, (models, 15))
    ours = forget_epsilon(unlearned, retrained)
    np.testing.assert_allclose(ours, [by_loops(*pair) for pair in zip(unlearned.T, retrained.T)], rtol=1e-6)


def test_epsilon_counts_equal_scores_together(x64):
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.integers(0, 4, (8, 30)) * 1.0, rng.integers(1, 6, (8, 30)) * 1.0
    ours = forget_epsilon(unlearned, retrained)
    np.testing.assert_allclose(ours, [by_loops(*pair) for pair in zip(unlearned.T, retrained.T)], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_official_epsilon_is_the_published_grids_and_never_more(x64, scale):
    rng = np.random.default_rng(0)
    unlearned, retrained = scale * rng.normal(size=(16, 6)), scale * rng.normal(0.3, 1, (16, 6))
    ours = forget_epsilon(unlearned, retrained, official=True)
    expected = [by_loops(*pair, official=True) for pair in zip(unlearned.T, retrained.T)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert (ours <= forget_epsilon(unlearned, retrained) + 1e-9).all()


def test_disjoint_sets_and_peaked_ones_earn_the_cap_and_constants_that_agree_nothing():
    rng = np.random.default_rng(0)
    some = rng.normal(size=(8, 1)).astype(np.float32)
    value = lambda first, second, **settings: float(forget_epsilon(first, second, **settings)[0])
    assert value(some, some + 100) == 50
    assert value(some, 1e-3 * some) == 50
    assert value(some, some + 100, cap=7.0) == 7
    assert value(np.ones((8, 1), np.float32), np.ones((8, 1), np.float32)) == 0
    assert value(np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)) == 50
    # One and the same set: every attack errs as often as it is right.
    assert value(some, some) < 1e-3


def test_epsilon_does_not_depend_on_unit_order_or_which_set_is_which(x64):
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(size=(12, 40)), rng.normal(0.4, 1.3, (12, 40))
    plain = forget_epsilon(unlearned, retrained)
    for first, second in (
        (3 * unlearned - 7, 3 * retrained - 7),
        (rng.permutation(unlearned), rng.permutation(retrained)),
        (retrained, unlearned),
        (-unlearned, -retrained),
    ):
        np.testing.assert_allclose(forget_epsilon(first, second), plain, rtol=1e-9)
    np.testing.assert_array_equal(forget_epsilon(unlearned, retrained, chunk=7), plain)


@pytest.mark.parametrize(
    ("models", "epsilon", "score"), [(16, 1.78, 0.130), (48, 2.05, 0.090), (64, 2.11, 0.083), (128, 2.24, 0.067)]
)
def test_null_is_the_simulated_one(models, epsilon, score):
    """Means over 40,000 (M = 16), 10,000 (48, 64) and 4,000 (128) examples of another key."""
    null = null_score(jax.random.key(0), models, examples=1000)
    assert float(null.epsilon) == pytest.approx(epsilon, abs=0.06)
    assert float(null.score) == pytest.approx(score, abs=0.012)


def test_score_buckets_end_where_models_cannot_tell():
    """M = 3 tells ε up to ln 2: one unit, two buckets."""
    np.testing.assert_array_equal(example_scores(jnp.array([0.0, 0.49, 0.5, 0.99, 1.0]), 3), [1, 1, 0.5, 0.5, 0])
    assert float(forget_score(jnp.array([0.0, 0.5, 50.0, 50.0]), 512)) == 0.375
    utility = {"remain": 90.0, "retrained_remain": 100.0, "unseen": 40.0, "retrained_unseen": 80.0}
    assert float(challenge_score(0.5, **utility)) == pytest.approx(0.225)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: forget_epsilon(jnp.zeros((2, 4)), jnp.zeros((2, 4))), RequestError, r"ln\(M − 1\) = 0.00"),
        (lambda: forget_epsilon(jnp.zeros((1, 4)), jnp.zeros((1, 4))), RequestError, "1 models"),
        (lambda: null_score(jax.random.key(0), 2), RequestError, "at least 3"),
        (lambda: forget_score(jnp.zeros(3), 2), RequestError, "at least 3"),
        (
            lambda: forget_epsilon(jnp.zeros((5, 4)), jnp.zeros((6, 4))),
            RequestError,
            r"\(5, 4\) and retrained \(6, 4\)",
        ),
        (lambda: forget_epsilon(jnp.zeros((5, 4)), jnp.zeros((5, 3))), RequestError, "same examples"),
        (lambda: forget_epsilon(jnp.zeros((5, 4)), jnp.zeros((5, 4)), delta=1.0), ValueError, "delta is 1"),
        (lambda: forget_epsilon(jnp.zeros((5, 4)), jnp.zeros((5, 4)), cap=0.0), ValueError, "cap is 0"),
        (lambda: forget_epsilon(jnp.zeros((5, 4)), jnp.zeros((5, 4)), chunk=0), ValueError, "chunk is 0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
