"""Logits of a network on named sets of rows: all that metrics and attacks read."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from clujax.data import padded
from clujax.models import Classifier


@partial(jax.jit, static_argnums=0)
def _logits(apply, params, stats, inputs):
    return apply(params, stats, inputs, train=False)[0]


def predict(classifier: Classifier, params: PyTree, stats: PyTree, inputs: Any, batch_size: int = 500) -> np.ndarray:
    """Eval-mode logits `[N, C]` in one pass of fixed-size batches (one compilation, whatever N is)."""
    parts = []
    for batch in padded({"x": inputs}, min(batch_size, max(len(inputs), 1))):
        kept = np.asarray(batch["weight"]) > 0
        parts.append(np.asarray(_logits(classifier.apply, params, stats, batch["x"]))[kept])
    return np.concatenate(parts)


def predictions(
    classifier: Classifier, params: PyTree, stats: PyTree, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of one network on each named set of rows: everything the metrics read.

    Args:
      rows: `{"forget": {"x", "y"}, "remain": ..., "unseen": ..., "unseen_forget": ...}`. `unseen` are test rows of the
        kept classes; `unseen_forget` those of classes forgotten as a whole, possibly absent or empty; further names are
        kept as they are.
    """
    return {
        name: (predict(classifier, params, stats, part["x"]), np.asarray(part["y"]))
        for name, part in rows.items()
        if len(part["y"])
    }


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Per cent of rows whose largest logit is the label's."""
    return 100.0 * float(np.mean(np.argmax(logits, -1) == labels))


def judged(
    classifier: Classifier, params: PyTree, columns: Mapping[str, Any], batch_size: int = 500
) -> tuple[float, float]:
    """Accuracy in per cent and mean negative log-likelihood in nats of columns x, y."""
    logits = predict(classifier, params, {}, columns["x"], batch_size)
    each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, np.asarray(columns["y"]))
    return accuracy(logits, columns["y"]), float(each.mean())
