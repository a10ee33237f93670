"""Layouts of kernels of any number of axes: matrices and back, norms of filters, the order of axes, and what is no layout."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.geometry import Layout, filter_std, lowrank
from clujax.geometry.layouts import checked, infer_layout, layouts


@st.composite
def kernels(draw):
    """A kernel, and a layout with axes of inputs and outputs, and perhaps of a stack, in any order."""
    ndim = draw(st.integers(2, 5))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    axes = draw(st.permutations(range(ndim)))
    inputs = draw(st.integers(1, ndim - 1))
    stacked = draw(st.integers(0, ndim - 1 - inputs))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape)
    return jnp.asarray(values, jnp.float32), Layout(tuple(axes[:inputs]), batch=tuple(axes[inputs : inputs + stacked]))


@settings(max_examples=20, deadline=None)
@given(kernels())
def test_a_kernel_is_its_matrices_and_a_filter_a_column(found):
    kernel, layout = found
    matrices = lowrank.to_matrix(kernel, layout)
    n, m = layout.sizes(kernel.shape)
    assert matrices.shape == (*(kernel.shape[i] for i in layout.batch), n, m)
    np.testing.assert_array_equal(lowrank.from_matrix(matrices, kernel.shape, layout), kernel)
    std = filter_std(kernel, layout)
    assert std.shape == tuple(1 if i in layout.fan_in else size for i, size in enumerate(kernel.shape))
    spread = np.broadcast_to(std, kernel.shape)
    columns = np.sqrt(np.square(np.asarray(matrices, np.float64)).sum(-2, keepdims=True) / n)
    np.testing.assert_allclose(
        lowrank.to_matrix(spread, layout), np.broadcast_to(columns, matrices.shape), rtol=1e-5, atol=1e-7
    )


@settings(max_examples=20, deadline=None)
@given(kernels(), st.data())
def test_the_order_of_axes_does_not_matter(found, data):
    kernel, layout = found
    order = data.draw(st.permutations(range(kernel.ndim)))
    at = lambda axes: tuple(order.index(axis) for axis in axes)
    turned = Layout(at(layout.fan_in), batch=at(layout.batch))
    np.testing.assert_allclose(
        filter_std(kernel.transpose(order), turned),
        np.transpose(filter_std(kernel, layout), order),
        rtol=1e-6,
        atol=1e-7,
    )


@settings(max_examples=20, deadline=None)
@given(kernels())
def test_axes_may_be_counted_from_the_end(found):
    kernel, layout = found
    back = lambda axes: tuple(axis - kernel.ndim for axis in axes)
    assert checked("w", kernel.shape, Layout(back(layout.fan_in), back(layout.batch))) == layout


@settings(max_examples=12, deadline=None)
@given(kernels(), st.integers(1, 3), st.integers(0, 9))
def test_low_rank_directions_are_products_of_matrices(found, rank, seed):
    kernel, layout = found
    draw = np.random.default_rng(seed)
    shapes = lowrank.factor_shapes(kernel.shape, rank, layout)
    a, b = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes)
    batch, (n, m) = tuple(kernel.shape[i] for i in layout.batch), layout.sizes(kernel.shape)
    product = np.asarray(a).reshape(*batch, n, rank) @ np.asarray(b).reshape(*batch, rank, m)
    grown = lowrank.delta(a, b, 0.5, layout)
    np.testing.assert_allclose(lowrank.to_matrix(grown, layout), 0.5 * product, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lowrank.inner(kernel, a, b, 0.5, layout), np.sum(kernel * grown), rtol=1e-3, atol=1e-4)
    squared = lowrank.merged_filter_sq_norms(kernel, a, b, 0.5, layout)
    np.testing.assert_allclose(squared, lowrank.filter_sq_norms(kernel + grown, layout), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layout",
    [Layout((0, 3)), Layout((0, 0)), Layout(()), Layout((0,), batch=(0,)), Layout((0, 1), batch=(2,)), Layout((-4,))],
)
def test_what_is_no_layout_is_refused_with_those_that_are_known(layout):
    with pytest.raises(ValueError, match=r"axis|Dense kernel"):
        checked("block/kernel", (2, 3, 4), layout)


def test_a_kernel_that_may_be_read_in_several_ways_is_not_guessed():
    with pytest.raises(ValueError, match="several ways"):
        infer_layout("mixer/kernel", (2, 3, 4))
    with pytest.raises(ValueError, match="two axes"):
        infer_layout("dense/bias", (3,))
    with pytest.raises(ValueError, match="takes no leaf"):
        layouts({"a": {"kernel": jnp.ones((2, 3))}}, [("scale$", None)])
