"""Relearn time: nothing to relearn, everything to relearn, and what is refused."""

import jax
import numpy as np
import optax
import pytest

from clujax.errors import RequestError
from clujax.unlearning.relearning import relearn_time


def test_a_network_that_never_forgot_needs_no_step(stateless):
    found = relearn_time(stateless, stateless.params, stateless.stats, key=jax.random.key(0))
    assert found.steps == 0
    assert len(found.losses) == 1


@pytest.mark.parametrize("network", ["stateless", "batch_norm"])
def test_a_fresh_network_learns_the_rows_and_is_left_alone(network, request):
    given = request.getfixturevalue(network)
    fresh = given.classifier.init(jax.random.key(5), given.forget["x"][:1])
    before = jax.tree.map(np.array, fresh)
    options = {"tx": optax.sgd(0.1, 0.9), "threshold": 0.9, "batch_size": 16}
    found = relearn_time(given, *fresh, key=jax.random.key(2), max_steps=100, **options)
    assert 0 < found.steps <= 100
    assert found.losses[-1] <= 0.9 < min(found.losses[:-1])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, fresh), before)


def test_giving_up_is_told_by_one_step_more_than_allowed(stateless):
    fresh, stats = stateless.classifier.init(jax.random.key(5), stateless.forget["x"][:1])
    found = relearn_time(stateless, fresh, stats, key=jax.random.key(0), max_steps=3, threshold=1e-4)
    assert found.steps == 4
    assert len(found.losses) == 4


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": float("nan")}, {"max_steps": 0}])
def test_bad_settings_are_refused(stateless, options):
    with pytest.raises(RequestError, match="expected a loss above 0"):
        relearn_time(stateless, stateless.params, stateless.stats, key=jax.random.key(0), **options)
