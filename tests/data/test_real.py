"""Data that no package registry carries: read where they are, skipped with the resolver's message where they are not."""

import numpy as np
import pytest

from clujax.data import load


@pytest.mark.needs_data("fashion_mnist")
def test_fashion_mnist_is_the_known_set():
    found = load("fashion_mnist")
    assert found.train["x"].shape == (60_000, 28, 28, 1)
    assert found.test["x"].shape == (10_000, 28, 28, 1)
    assert np.bincount(found.train["y"]).tolist() == [6000] * 10
    assert np.bincount(found.test["y"]).tolist() == [1000] * 10
    assert found.source.n == 70_000
    assert not found.source.kind.startswith("fallback")
    if found.source.kind == "idx":
        assert found.source.sha256 == "d1fd84a877f3b78fa9a171b3de73f93e7b6f69ed94bada3feae9d96821401f5c"
        assert found.train["y"][:4].tolist() == [9, 0, 0, 3]
        assert found.classes[9] == "Ankle boot"


@pytest.mark.needs_data("cifar10")
def test_cifar10_is_the_known_set():
    found = load("cifar10")
    assert found.train["x"].shape == (50_000, 32, 32, 3)
    assert found.test["x"].shape == (10_000, 32, 32, 3)
    assert np.bincount(found.train["y"]).tolist() == [5000] * 10
    assert found.classes[0] == "airplane"
    means = found.train["x"].mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-3)


def test_the_marker_skips_with_the_message_of_the_resolver(request):
    hook = next(
        plugin.pytest_runtest_setup
        for plugin in request.config.pluginmanager.get_plugins()
        if hasattr(plugin, "missing_data")
    )
    request.node.add_marker(pytest.mark.needs_data("no_such_set"))
    with pytest.raises(pytest.skip.Exception, match=r"data set 'no_such_set' was not found\. Looked at:"):
        hook(request.node)
