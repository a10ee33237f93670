"""Small requests that all tests of this room share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.method import execute
from clujax.adaptation.plans import train_on
from clujax.models import cnn, mlp
from clujax.unlearning import Request

TRAINING = {"batch_size": 32, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def clusters(seed, count, shape=(4, 4, 1), classes=4):
    """Overlapping classes: learnable, and memorised only by training."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(classes, *shape))
    x = (centres[y] + 1.2 * rng.normal(size=(count, *shape))).astype(np.float32)
    return {"x": x, "y": y, "index": np.arange(count)}


def make_request(classifier, shape, epochs=30):
    rows = clusters(1, 240, shape)
    params, stats = classifier.init(jax.random.key(0), jnp.asarray(rows["x"][:1]))
    everything = Request(classifier, params, stats, rows, rows, 4)
    plan = train_on(everything, rows, params, stats, jax.random.key(1), epochs=epochs, **TRAINING)
    original = execute(plan, key=jax.random.key(2))
    part = lambda chosen: {name: column[chosen] for name, column in rows.items()}
    forget = np.arange(240) < 48
    return Request(classifier, original.params, original.stats, part(forget), part(~forget), 4)


@pytest.fixture(scope="session")
def stateless():
    return make_request(mlp(num_classes=4, widths=(32,)), (4, 4, 1))


@pytest.fixture(scope="session")
def batch_norm():
    return make_request(cnn(num_classes=4, widths=(8,)), (4, 4, 1), epochs=4)


@pytest.fixture(scope="session")
def rows():
    """Sixty rows of four overlapping classes, for ensembles."""
    return {name: column for name, column in clusters(1, 60).items() if name != "index"}
