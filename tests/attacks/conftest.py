"""Logits of an overconfident network: right more often, and surer, on rows that it was trained on."""

import numpy as np
import pytest


def overconfident(seed, rows, margin, classes=10):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    logits = 1.5 * rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += rng.gamma(4.0, margin, rows) - 1.0
    return (3 * logits).astype(np.float32), labels


@pytest.fixture(scope="session")
def network():
    """(logits, labels) of remaining, unseen and forgotten rows."""
    return {
        "remain": overconfident(0, 320, 1.5),
        "unseen": overconfident(1, 240, 1.0),
        "forget": overconfident(2, 120, 1.2),
    }
