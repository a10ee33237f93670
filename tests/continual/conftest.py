"""A small stream that all tests of this room share: six overlapping classes, a small perceptron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.continual.method import Scene
from clujax.models import mlp

CLASSES, ROWS = 6, 360


def clusters(seed, count=ROWS, shape=(4, 4, 1), classes=CLASSES):
    """Overlapping classes: learnable, and memorised only by training."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % classes).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(classes, *shape))
    x = (centres[y] + 1.2 * rng.normal(size=(count, *shape))).astype(np.float32)
    return {"x": x, "y": y}


def of_classes(*classes):
    """Row numbers of whole classes."""
    return np.flatnonzero(np.isin(clusters(1)["y"], classes))


@pytest.fixture(scope="session")
def columns():
    return {name: jnp.asarray(column) for name, column in clusters(1).items()}


@pytest.fixture(scope="session")
def scene(columns):
    return Scene(mlp(num_classes=CLASSES, widths=(16,)), columns, CLASSES)


@pytest.fixture(scope="session")
def fresh(scene):
    """Parameters and stats before any training."""
    return scene.classifier.init(jax.random.key(0), scene.columns["x"][:1])
