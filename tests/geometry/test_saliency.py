import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clujax.geometry import check_mask, density, ratio_mask, top_fraction_mask


def test_ratio_mask_compares_weight_by_weight_and_keeps_the_dead_up_to_one():
    forget, remain = {"w": jnp.array([2.0, 1.0, 0.0, 0.0])}, {"w": jnp.array([1.0, 2.0, 0.0, 1.0])}
    assert ratio_mask(forget, remain, 1.0)["w"].tolist() == [True, False, True, False]
    assert ratio_mask(forget, remain, 1.001)["w"].tolist() == [True, False, False, False]
    assert ratio_mask(forget, remain, 0)["w"].all()
    assert not ratio_mask(forget, remain, float("inf"))["w"].any()
    assert ratio_mask(remain, remain, 1.0)["w"].all()


@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_wrong_threshold_is_named(threshold):
    with pytest.raises(ValueError, match="threshold is"):
        ratio_mask(jnp.ones(2), jnp.ones(2), threshold)


scores = hnp.arrays(np.float32, (37,), elements=st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(width=32)))


@settings(max_examples=60, deadline=None)
@given(scores=scores, fraction=st.sampled_from([0.01, 0.1, 0.29, 0.5, 0.75, 0.999, 1.0]))
def test_top_fraction_is_a_stable_sort_of_all_leaves(scores, fraction):
    tree = {"a": jnp.asarray(scores[:12].reshape(3, 4)), "b": jnp.asarray(scores[12:])}
    mask = top_fraction_mask(tree, fraction)
    found = np.concatenate([np.ravel(mask["a"]), mask["b"]])
    low = np.where(np.abs(scores) < np.finfo(np.float32).tiny, 0, scores)  # the device rounds subnormals to 0
    order = np.argsort(-np.where(np.isnan(low), -np.inf, low), kind="stable")
    expected = np.zeros(37, bool)
    expected[order[: int(np.floor(round(fraction * 37, 9)))]] = True
    np.testing.assert_array_equal(found, expected)


def test_top_fraction_counts_are_exact_for_decimals_and_per_leaf():
    assert int(top_fraction_mask(jnp.arange(100.0), 0.29).sum()) == 29  # 0.29 * 100 is 28.999…
    tree = {"a": jnp.arange(10.0), "b": 100 + jnp.arange(7.0)}
    leaf = top_fraction_mask(tree, 0.5, scope="leaf")
    assert (int(leaf["a"].sum()), int(leaf["b"].sum())) == (5, 3)
    whole = top_fraction_mask(tree, 0.5)
    assert (int(whole["a"].sum()), int(whole["b"].sum())) == (1, 7)


def test_top_fraction_in_double_precision_and_of_mixed_types(x64):
    close = jnp.array([1.0, 1.0 + 1e-12, 1.0 - 1e-12])
    assert top_fraction_mask(close, 0.34).tolist() == [False, True, False]
    mixed = {"a": jnp.array([1.0], jnp.bfloat16), "b": jnp.array([0.5, 2.0], jnp.float32), "c": jnp.array([3.0])}
    mask = top_fraction_mask(mixed, 0.5)
    assert [leaf.tolist() for leaf in mask.values()] == [[False], [False, True], [True]]


def test_top_fraction_of_sharded_scores(mesh):
    scores = jax.random.normal(jax.random.key(0), (64, 8))
    sharded = jax.device_put(scores, NamedSharding(mesh, P("data")))
    one, eight = top_fraction_mask({"w": scores}, 0.3), top_fraction_mask({"w": sharded}, 0.3)
    np.testing.assert_array_equal(one["w"], eight["w"])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_wrong_fraction_is_named(fraction):
    with pytest.raises(ValueError, match=r"fraction is .*\(0, 1\]"):
        top_fraction_mask(jnp.ones(3), fraction)


def test_density_counts_leaf_by_leaf_and_in_total():
    mask = {"first": {"w": jnp.array([True, False, False, False])}, "head": jnp.array([True, True])}
    assert density(mask) == {"first/w": 0.25, "head": 1.0, "total": 0.5}


def test_masks_that_do_not_fit_are_refused_by_path():
    params = {"first": {"w": jnp.ones((2, 2))}, "head": jnp.ones(3)}
    good = jax.tree.map(lambda leaf: leaf > 0, params)
    check_mask(good, params)
    wrong = [
        ({"head": good["head"]}, r"missing .*\['first'\]\['w'\]"),
        (good | {"head": jnp.ones(2, bool)}, r"\['head'\] has shape \(2,\); the parameter has \(3,\)"),
        (good | {"head": jnp.ones(3)}, r"\['head'\] has dtype float32; expected bool"),
        (jax.tree.map(jnp.logical_not, good), "keeps no weight"),
    ]
    for mask, message in wrong:
        with pytest.raises(ValueError, match=message):
            check_mask(mask, params)
