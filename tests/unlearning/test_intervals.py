"""Intervals against coverage on simulated data, closed forms and their limits."""

import itertools

import jax
import numpy as np
import pytest

from clujax.errors import RequestError
from clujax.unlearning.intervals import bootstrap_interval, noise_ellipse, paired_gap_interval, t_interval

KEY = jax.random.key(0)


def test_bootstrap_covers_a_normal_mean():
    values = np.random.default_rng(0).normal(1.0, 2.0, (200, 60))
    found = [bootstrap_interval(jax.random.fold_in(KEY, i), row, draws=400) for i, row in enumerate(values)]
    # 95 % less the known shortfall of percentiles at n = 60, within 3 binomial errors of 200 trials.
    assert 0.88 < np.mean([f.low <= 1.0 <= f.high for f in found]) <= 0.99


def test_bootstrap_of_a_mean_is_the_normal_interval_for_many_rows():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    found = bootstrap_interval(KEY, values, draws=4000)
    half = 1.96 * values.std() / np.sqrt(4000)
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], atol=0.1 * half)
    assert found.estimate == pytest.approx(values.mean(), rel=1e-5)


def test_paired_rows_cancel_what_moves_both():
    rng = np.random.default_rng(2)
    ease = rng.normal(0, 10, 500)
    method, reference = ease + rng.normal(0.5, 0.1, 500), ease
    paired = paired_gap_interval(KEY, method, reference)
    apart = bootstrap_interval(KEY, method)
    assert paired.low < 0.5 < paired.high
    assert (paired.high - paired.low) < 0.02 * (apart.high - apart.low)


def test_paired_interval_of_one_seed_is_the_bootstrap_of_differences():
    rng = np.random.default_rng(3)
    method, reference = rng.random(300) < 0.8, rng.random(300) < 0.7
    paired = paired_gap_interval(KEY, method, reference, draws=4000)
    plain = bootstrap_interval(jax.random.key(9), method.astype(float) - reference, draws=4000)
    assert paired.estimate == pytest.approx(plain.estimate)
    np.testing.assert_allclose([paired.low, paired.high], [plain.low, plain.high], atol=0.01)


@pytest.mark.parametrize(("same_rows", "variance"), [(False, 4 / 8 + 9 / (8 * 200)), (True, 4 / 8)])
def test_seeds_are_drawn_before_rows(same_rows, variance):
    """A spread of 2 over 8 seeds and of 3 over rows: the seeds' share dominates, whatever the number of rows."""
    rng = np.random.default_rng(4)
    difference = rng.normal(size=(8, 1))
    difference = 2 * (difference - difference.mean()) / difference.std() + (0 if same_rows else 3) * rng.normal(
        size=(8, 200)
    )
    found = paired_gap_interval(KEY, difference, np.zeros_like(difference), same_rows=same_rows, draws=4000)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.1)


def test_shared_rows_keep_a_row_effect_that_own_rows_average_out():
    """What a row does to all seeds does not shrink with their number when they share the rows."""
    effect = np.random.default_rng(5).normal(size=50)
    method = np.tile(effect, (20, 1))
    wide = paired_gap_interval(KEY, method, np.zeros_like(method), same_rows=True)
    narrow = paired_gap_interval(KEY, method, np.zeros_like(method))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(np.sqrt(20), rel=0.15)


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
def test_identical_answers_have_no_width(shape):
    values = np.random.default_rng(6).random(shape)
    found = paired_gap_interval(KEY, values, values)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_wider_at_a_higher_level():
    values = np.random.default_rng(7).normal(size=30)
    for interval in (
        lambda level: bootstrap_interval(KEY, values, level=level),
        lambda level: t_interval(values, level=level),
    ):
        found = [interval(level) for level in (0.5, 0.8, 0.95, 0.99)]
        assert all(a.low > b.low and a.high < b.high for a, b in itertools.pairwise(found))


def test_any_statistic_of_rows_drawn_together():
    """A correlation of exactly 1 survives only if both columns are drawn with the same rows."""
    x = np.random.default_rng(8).normal(size=40)
    correlation = lambda pair: np.corrcoef(pair["a"], pair["b"])[0, 1]
    found = bootstrap_interval(KEY, {"a": x, "b": 2 * x + 1}, statistic=correlation, draws=200)
    np.testing.assert_allclose(found[:3], 1, atol=1e-5)


def test_t_interval_is_the_textbooks():
    """4.303 is the tabulated 97.5 % point for 2 degrees of freedom."""
    found = t_interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        [found.low, found.estimate, found.high], [2 - 4.303 / np.sqrt(3), 2, 2 + 4.303 / np.sqrt(3)], atol=1e-3
    )
    draws = np.random.default_rng(9).normal(5, 1, (2000, 4))
    covered = [interval.low < 5 < interval.high for interval in map(t_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_ellipse_of_a_known_covariance():
    """Points ±a on one axis and ±b on the other, turned: the axes come back, perpendicular, centre and all."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    points = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]]) @ turn.T + [10, 20]
    found = noise_ellipse(points)
    np.testing.assert_allclose(found.centre, [10, 20])
    np.testing.assert_allclose(np.linalg.norm(found.axes, axis=1), 2 * np.sqrt([18 / 3, 2 / 3]))
    np.testing.assert_allclose(np.abs(found.axes[0] @ turn[:, 1]), 0, atol=1e-9)
    np.testing.assert_allclose(found.axes[0] @ found.axes[1], 0, atol=1e-9)
    np.testing.assert_allclose(noise_ellipse(points, deviations=1.0).axes * 2, found.axes)


def test_ellipse_of_a_line_is_flat():
    found = noise_ellipse(np.arange(5)[:, None] * np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(np.linalg.norm(found.axes[1]), 0, atol=1e-6)


def test_two_deviations_hold_86_per_cent():
    points = np.random.default_rng(10).multivariate_normal([1, -1], [[4, 1], [1, 1]], 20_000)
    centre, axes = noise_ellipse(points)
    scaled = (points - centre) @ axes.T / np.sum(axes**2, 1)
    assert np.mean(np.sum(scaled**2, 1) <= 1) == pytest.approx(1 - np.exp(-2), abs=0.01)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bootstrap_interval(KEY, np.zeros(0)), RequestError, "at least one row"),
        (lambda: bootstrap_interval(KEY, {"a": np.zeros(3), "b": np.zeros(4)}), RequestError, "as many in each"),
        (lambda: bootstrap_interval(KEY, np.array([1.0, np.nan])), RequestError, "NaN or Inf"),
        (lambda: bootstrap_interval(KEY, np.ones(3), level=1.0), ValueError, "level is 1.0"),
        (lambda: bootstrap_interval(KEY, np.ones(3), draws=0), ValueError, "draws is 0"),
        (lambda: paired_gap_interval(KEY, np.ones(3), np.ones(4)), RequestError, "the same rows for both"),
        (lambda: paired_gap_interval(KEY, np.ones((1, 2, 3)), np.ones((1, 2, 3))), RequestError, "or \\[S, n\\]"),
        (lambda: paired_gap_interval(KEY, np.ones((2, 0)), np.ones((2, 0))), RequestError, "at least one row"),
        (lambda: t_interval([1.0]), RequestError, "at least 2 seeds"),
        (lambda: t_interval([1.0, np.inf]), RequestError, "finite"),
        (lambda: t_interval([1.0, 2.0], level=0.0), ValueError, "level is 0.0"),
        (lambda: noise_ellipse(np.ones((2, 2))), RequestError, "at least 3"),
        (lambda: noise_ellipse(np.ones((4, 3))), RequestError, "K, 2"),
        (lambda: noise_ellipse(np.ones((4, 2)), deviations=0.0), ValueError, "deviations is 0.0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
