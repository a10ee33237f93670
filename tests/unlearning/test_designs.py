"""Who was trained on what: balanced designs, memorisation, and unlearning that many models cannot tell from never learning."""

import jax
import numpy as np
import pytest

from clujax.errors import RequestError
from clujax.models import mlp
from clujax.unlearning import ensemble_logits, memorization_scores, subset_masks, train_ensemble, u_lira_scores
from clujax.unlearning.designs import balanced_assignment

N, C = 60, 4
NET = mlp(C, (8,))
SMALL = {"epochs": 2, "batch_size": 16}


def split(members, seed=3):
    return jax.random.split(jax.random.key(seed), members)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_subset_masks_have_equal_counts_and_the_share(share):
    masks = subset_masks(jax.random.key(0), 400, 50, share)
    assert (masks.sum(1) == round(share * 50)).all()
    # A row's count is binomial: 5 standard errors.
    assert np.abs(masks.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / 400)


def test_memorization_scores_by_hand():
    keep = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    correct = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 1, 0]], bool)
    labels = np.array([2, 0, 1])
    answers = np.where(correct, labels, (labels + 1) % 3)
    scores = memorization_scores(np.eye(3)[answers], labels, keep)
    np.testing.assert_allclose(scores, [1 - 0, 1 - 0.5, 0.5 - 0])


def test_memorization_marks_the_mislabelled_rows(rows):
    """A wrong label can only be answered by a network that was told it."""
    told = rows["y"].copy()
    told[:6] = (told[:6] + 1) % C
    keep = subset_masks(jax.random.key(1), 16, N, 0.5)
    ensemble = train_ensemble(mlp(C, (32,)), rows | {"y": told}, keep, split(16), epochs=60, batch_size=16)
    scores = memorization_scores(ensemble_logits(mlp(C, (32,)), ensemble, rows["x"]), told, keep)
    assert scores[:6].mean() > scores[6:].mean() + 0.3


def test_memorization_refuses_rows_on_one_side():
    logits, labels = np.zeros((2, 3, 4)), np.zeros(3, int)
    with pytest.raises(RequestError, match=r"1 rows are never in \(first: \[2\]\)"):
        memorization_scores(logits, labels, np.array([[1, 1, 0], [0, 0, 0]], bool))
    with pytest.raises(RequestError, match=r"1 rows are never out \(first: \[0\]\)"):
        memorization_scores(logits, labels, np.array([[1, 1, 0], [1, 0, 1]], bool))
    with pytest.raises(RequestError, match=r"expected \[M, N, C\]"):
        memorization_scores(logits, labels[:2], np.ones((2, 3), bool))


@pytest.mark.parametrize(("members", "count"), [(4, 2), (6, 9), (20, 30)])
def test_assignment_is_balanced_both_ways(members, count):
    assigned = balanced_assignment(jax.random.key(members), members, count)
    assert (assigned.sum(0) == members // 2).all()
    assert np.abs(assigned.sum(1) - count / 2).max() <= 0.5


def test_u_lira_with_exact_unlearning_cannot_be_told_apart(rows):
    """Unlearning by retraining gives members and strangers one law; doing nothing does not."""
    pool = np.arange(20)
    recipe = {"epochs": 20, "batch_size": 16}
    network = mlp(C, (16,))
    rng = np.random.default_rng(3)
    noisy = rows | {"y": np.where(np.arange(N) < 20, rng.integers(0, C, N), rows["y"]).astype(np.int32)}
    seen = {}

    def exact(ensemble, forget, remain, key):
        seen.update(forget=forget, remain=remain)
        return train_ensemble(network, noisy, remain, jax.random.split(key, 8), **recipe)

    scores, unlearned = u_lira_scores(network, noisy, pool, 8, lambda e, f, r, k: e, key=jax.random.key(0), **recipe)
    assert scores.shape == unlearned.shape == (8, 20)
    assert scores[unlearned].mean() > scores[~unlearned].mean() + 1
    forgotten, same = u_lira_scores(network, noisy, pool, 8, exact, key=jax.random.key(0), **recipe)
    np.testing.assert_array_equal(same, unlearned)
    assert abs(forgotten[same].mean() - forgotten[~same].mean()) < 0.5
    assert not (seen["forget"] & seen["remain"]).any()
    assert seen["remain"][:, 20:].all()
    assert not seen["remain"][:, :20].any()


def test_bad_masks_pools_and_assignments(rows):
    for members, share in ((0, 0.5), (3, 0.0), (3, 1.0), (3, 0.001), (3, float("nan"))):
        with pytest.raises(ValueError, match="expected M ≥ 1"):
            subset_masks(jax.random.key(0), members, 20, share)
    for members, count in ((2, 10), (5, 10), (4, 1)):
        with pytest.raises(ValueError, match="even number"):
            balanced_assignment(jax.random.key(0), members, count)
    for pool, message in (([1, 1], "distinct"), ([0.5, 1.5], "distinct"), ([0, N], "within"), (range(N), "fewer")):
        with pytest.raises(RequestError, match=message):
            u_lira_scores(NET, rows, np.array(pool), 4, lambda e, f, r, k: e, key=jax.random.key(0), **SMALL)
