"""A head that grows: closed outputs are as good as absent, opening one changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.losses import cross_entropy
from clujax.continual.head import CLOSED, OPEN, as_open, growing, open_classes, seen
from clujax.models import cnn, mlp


def opened(classifier, classes, inputs, seed=1):
    return open_classes(classifier, *classifier.init(jax.random.key(0), inputs), classes, inputs, jax.random.key(seed))


@pytest.fixture
def inputs(columns):
    return columns["x"][:12]


def test_a_network_with_closed_outputs_is_the_one_with_fewer_outputs(inputs, columns):
    wide, narrow = growing(mlp(num_classes=6, widths=(16,)), 6), mlp(num_classes=3, widths=(16,))
    params, stats = opened(wide, [0, 1, 2], inputs)
    fewer = dict(params)
    fewer["head"] = {"kernel": params["head"]["kernel"][:, :3], "bias": params["head"]["bias"][:3]}
    labels = columns["y"][:12] % 3

    def loss(classifier, stats):
        return lambda params: cross_entropy(classifier.apply(params, stats, inputs)[0], labels).mean()

    many, gradient = jax.value_and_grad(loss(wide, stats))(params)
    few, expected = jax.value_and_grad(loss(narrow, {}))(fewer)
    np.testing.assert_allclose(many, few, rtol=1e-6)
    np.testing.assert_allclose(gradient["head"]["kernel"][:, :3], expected["head"]["kernel"], atol=1e-7)
    assert not np.any(gradient["head"]["kernel"][:, 3:])
    np.testing.assert_allclose(gradient["layers_0"]["kernel"], expected["layers_0"]["kernel"], atol=1e-7)


@pytest.mark.parametrize("build", [mlp, cnn])
def test_opening_a_class_leaves_the_other_logits_to_the_bit(build, inputs):
    classifier = growing(build(num_classes=6, widths=(8,)), 6)
    learner = opened(classifier, [0, 1], inputs)
    grown = open_classes(classifier, *learner, [1, 4], inputs, jax.random.key(2))
    before, after = (classifier.apply(*each, inputs)[0] for each in (learner, grown))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (before[:, 4] == CLOSED).all()
    assert np.asarray(seen(after)).all(0).tolist() == [True, True, False, False, True, False]
    fresh, _ = classifier.init(jax.random.key(2), inputs)
    np.testing.assert_array_equal(grown[0]["head"]["kernel"][:, 4], fresh["head"]["kernel"][:, 4])


def test_opening_compiles_no_step_anew(inputs, columns):
    classifier = growing(mlp(num_classes=6, widths=(8,)), 6)
    step = jax.jit(
        lambda p, s: jax.grad(lambda p: cross_entropy(classifier.apply(p, s, inputs)[0], columns["y"][:12]).sum())(p)
    )
    learner = opened(classifier, [0], inputs)
    for classes in ([1], [2, 3], [5]):
        learner = open_classes(classifier, *learner, classes, inputs, jax.random.key(3))
        step(*learner)
    assert step._cache_size() == 1


def test_a_fresh_network_opens_what_another_has_open(inputs):
    classifier = growing(mlp(num_classes=6, widths=(8,)), 6)
    _, like = opened(classifier, [2, 5], inputs)
    _, stats = classifier.init(jax.random.key(4), inputs)
    assert as_open(stats, like)[OPEN].tolist() == like[OPEN].tolist()
    assert as_open({}, {}) == {}
    assert jnp.sum(stats[OPEN]) == 0
