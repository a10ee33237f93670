"""Designs of many networks: who was trained on what, for memorisation scores and for attacks by many models."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, PRNGKeyArray

from clujax.attacks import scaled_confidence
from clujax.errors import RequestError
from clujax.models import Classifier
from clujax.unlearning.ensembles import Ensemble, ensemble_logits, train_ensemble


def subset_masks(key: PRNGKeyArray, members: int, count: int, share: float = 0.7) -> Bool[np.ndarray, "M N"]:
    """Random masks `[M, N]` that each keep round(share · N) rows: equal counts, so that all members take as many steps.

    Raises:
      ValueError: fewer than one member, or a share that keeps no row or every row.
    """
    kept = round(share * count) if 0 < share < 1 else 0
    if members < 1 or not 0 < kept < count:
        raise ValueError(
            f"{members} members keep {share} of {count} rows; expected M ≥ 1 and a share that splits the rows."
        )
    ranks = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, members))
    return np.asarray(ranks) < kept


def memorization_scores(logits: ArrayLike, labels: ArrayLike, keep: ArrayLike) -> Float[np.ndarray, " N"]:
    """P(correct | trained on the row) − P(correct | not), over the members of an ensemble: 1 for a row learnt by heart.

    Its standard error is about √(p(1−p)/M_in + p(1−p)/M_out), so 0.1 needs some 100 members.

    Args:
      logits: `[M, N, C]`, from `ensemble_logits` on the training rows.
      labels: `[N]`.
      keep: bool `[M, N]`, the masks that the members were trained with.

    Raises:
      RequestError: shapes that do not fit, or a row that every member, or none, was trained on.

    Source: Feldman and Zhang 2020, arXiv:2008.03703.
    """
    logits, labels, keep = np.asarray(logits), np.asarray(labels), np.asarray(keep, bool)
    if logits.ndim != 3 or keep.shape != logits.shape[:2] or labels.shape != logits.shape[1:2]:
        raise RequestError(
            f"logits, labels, keep have shapes {logits.shape}, {labels.shape}, {keep.shape};"
            " expected [M, N, C], [N], [M, N]."
        )
    inside = keep.sum(0)
    for side, rows in (("in", np.flatnonzero(inside == 0)), ("out", np.flatnonzero(inside == len(keep)))):
        if rows.size:
            raise RequestError(
                f"{rows.size} rows are never {side} (first: {rows[:5].tolist()}); use more members, or a share nearer 0.5."
            )
    correct = np.argmax(logits, -1) == labels
    return (correct & keep).sum(0) / inside - (correct & ~keep).sum(0) / (len(keep) - inside)


def balanced_assignment(key: PRNGKeyArray, members: int, count: int) -> Bool[np.ndarray, "S Q"]:
    """Which of Q examples each of S members has: half of the members for every example, half of the examples for each member.

    Members come in complementary pairs of random halves; with an odd Q their counts differ by one.

    Raises:
      ValueError: an odd number of members, fewer than 4 (two on each side), or fewer than 2 examples.
    """
    if members < 4 or members % 2 or count < 2:
        raise ValueError(f"{members} members, {count} examples; expected an even number of at least 4, and at least 2.")
    ranks = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, members // 2))
    first = np.asarray(ranks) < (count + 1) // 2
    return np.stack([first, ~first], 1).reshape(members, count)


def u_lira_scores(
    classifier: Classifier,
    rows: Mapping[str, Any],
    pool: ArrayLike,
    members: int,
    unlearn: Callable[[Ensemble, np.ndarray, np.ndarray, PRNGKeyArray], Ensemble],
    *,
    key: PRNGKeyArray,
    **training: Any,
) -> tuple[Float[np.ndarray, "S Q"], Bool[np.ndarray, "S Q"]]:
    """What a per-example attack on unlearning reads: scores of Q examples under S networks, and who unlearned which.

    Each example of the pool is, for half of the networks, learnt and then unlearned, and for the other half never seen by a
    network that unlearned others. The rows outside the pool are always learnt and never unlearned.

    Args:
      classifier, rows: as for `train_ensemble`.
      pool: `[Q]` row numbers.
      members: S, even.
      unlearn: `unlearn(ensemble, forget [S, N], remain [S, N], key) -> ensemble`, for example by `train_ensemble(start=...)`.
      key: all randomness.
      **training: for `train_ensemble` (epochs, batch_size, ...).

    Returns:
      Scaled confidence `[S, Q]`, and the assignment `[S, Q]`: True where the example was learnt and unlearned.

    Raises:
      RequestError: a pool that repeats rows, has others than the data's, or has all of them.

    Source: U-LiRA, Hayes et al. 2024, arXiv:2403.01218, algorithm with balanced assignments.
    """
    pool, count = np.asarray(pool), len(rows["y"])
    if pool.ndim != 1 or not np.issubdtype(pool.dtype, np.integer) or np.unique(pool).size != pool.size:
        raise RequestError(f"pool has shape {pool.shape}, dtype {pool.dtype}; expected [Q] distinct row numbers.")
    if pool.size >= count or pool.min(initial=0) < 0 or pool.max(initial=0) >= count:
        raise RequestError(f"pool has {pool.size} rows; expected fewer than all, within [0, {count}).")
    assign_key, train_key, unlearn_key = jax.random.split(key, 3)
    unlearned = balanced_assignment(assign_key, members, pool.size)
    forget = np.zeros((members, count), bool)
    forget[:, pool] = unlearned
    remain = np.ones((members, count), bool)
    remain[:, pool] = False
    keys = jax.random.split(train_key, members)
    ensemble = unlearn(train_ensemble(classifier, rows, forget | remain, keys, **training), forget, remain, unlearn_key)
    logits = ensemble_logits(classifier, ensemble, np.asarray(rows["x"])[pool])
    labels = np.broadcast_to(np.asarray(rows["y"])[pool], logits.shape[:-1])
    return np.asarray(scaled_confidence(logits, labels)), unlearned
