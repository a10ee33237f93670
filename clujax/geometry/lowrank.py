"""Low-rank directions s·a·b of a kernel with any axes, and what can be computed of them without forming them.

A kernel with layout (batch axes B, inputs I, outputs O) has factors `a [*B, *I, r]` and `b [*B, r, *O]`. Products are in
float32, also on accelerators that would round their inputs to fewer bits: r is small, and a merged kernel keeps its digits.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from clujax.geometry.layouts import Layout


def factor_shapes(shape: Sequence[int], rank: int, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a and b for a kernel of this shape.

    Example:
      >>> factor_shapes((64, 4, 16), 8, Layout((0,)))
      ((64, 8), (8, 4, 16))
    """
    batch = tuple(shape[i] for i in layout.batch)
    outputs = tuple(shape[i] for i in layout.outputs(len(shape)))
    return (*batch, *(shape[i] for i in layout.fan_in), rank), (*batch, rank, *outputs)


def delta(a: Shaped[Array, "..."], b: Shaped[Array, "..."], scale: float, layout: Layout) -> Float[Array, "..."]:
    """s·a·b with the axes of the kernel, float32."""
    kernel, left, right = einsum_letters(a, b, layout)
    return scale * _einsum(f"{left},{right}->{kernel}", _wide(a), _wide(b))


def inner(
    gradient: Shaped[Array, "..."],
    a: Shaped[Array, "..."],
    b: Shaped[Array, "..."],
    scale: float,
    layout: Layout,
) -> Float[Array, ""]:
    """⟨G, s·a·b⟩ = s·tr(aᵀ G bᵀ); cost 2·n·m·r, no n × m temporary."""
    kernel, left, right = einsum_letters(a, b, layout)
    through = _einsum(f"{kernel},{left}->{right}", _wide(gradient), _wide(a))
    return scale * jnp.sum(through * _wide(b))


def gram(
    first: tuple[Shaped[Array, "..."], Shaped[Array, "..."]],
    second: tuple[Shaped[Array, "..."], Shaped[Array, "..."]],
    scales: tuple[float, float],
    layout: Layout,
) -> Float[Array, ""]:
    """⟨s₁·a₁b₁, s₂·a₂b₂⟩ from the r₁ × r₂ products of the factors."""
    _, left, right = einsum_letters(*first, layout)
    batch = left[: len(layout.batch)]
    other = lambda letters: letters.replace("r", "q")
    inputs = _einsum(f"{left},{other(left)}->{batch}rq", _wide(first[0]), _wide(second[0]))
    outputs = _einsum(f"{right},{other(right)}->{batch}rq", _wide(first[1]), _wide(second[1]))
    return scales[0] * scales[1] * jnp.sum(inputs * outputs)


def filter_sq_norms(kernel: Shaped[Array, "..."], layout: Layout) -> Float[Array, "..."]:
    """Σ over the inputs of the squared kernel, with those axes kept at size 1."""
    return jnp.sum(jnp.square(_wide(kernel)), axis=layout.fan_in, keepdims=True)


def merged_filter_sq_norms(
    kernel: Shaped[Array, "..."],
    a: Shaped[Array, "..."],
    b: Shaped[Array, "..."],
    scale: float,
    layout: Layout,
    kernel_sq_norms: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """‖(W + s·a·b)_o‖² of every filter without the merged kernel: ‖W_o‖² + 2s·(aᵀW)_o·b_o + s²·b_oᵀ(aᵀa)b_o, at least 0.

    Args:
      kernel_sq_norms: `filter_sq_norms(kernel, layout)` where it is known; the kernel does not change in training.

    Cost: 2·n·m·r and O(m·r²) operations, no n × m temporary.
    """
    letters, left, right = einsum_letters(a, b, layout)
    batch = left[: len(layout.batch)]
    a, b = _wide(a), _wide(b)
    cross = _einsum(f"{letters},{left}->{right}", _wide(kernel), a)
    inside = _einsum(f"{left},{left.replace('r', 'q')}->{batch}rq", a, a)
    bent = _einsum(f"{batch}rq,{right.replace('r', 'q')}->{right}", inside, b)
    rank_axis = len(layout.batch)
    more = jnp.sum((2 * scale * cross + scale**2 * bent) * b, axis=rank_axis)
    known = filter_sq_norms(kernel, layout) if kernel_sq_norms is None else kernel_sq_norms
    return jnp.maximum(known + _spread(more, layout, len(letters)), 0.0)


def to_matrix(kernel: Shaped[Array | np.ndarray, "..."], layout: Layout) -> Shaped[Array | np.ndarray, "..."]:
    """The kernel as matrices `[*B, n, m]`."""
    order = layout.batch + layout.fan_in + layout.outputs(kernel.ndim)
    moved = jnp.transpose(kernel, order)
    return moved.reshape(*moved.shape[: len(layout.batch)], *layout.sizes(kernel.shape))


def from_matrix(
    matrix: Shaped[Array | np.ndarray, "... n m"], shape: Sequence[int], layout: Layout
) -> Shaped[Array | np.ndarray, "..."]:
    """The kernel of this shape from its matrices, the inverse of `to_matrix`."""
    order = layout.batch + layout.fan_in + layout.outputs(len(shape))
    return jnp.transpose(matrix.reshape([shape[i] for i in order]), sorted(range(len(shape)), key=order.__getitem__))


def einsum_letters(a: Array, b: Array, layout: Layout) -> tuple[str, str, str]:
    """Einsum letters of the kernel, a and b; r is the rank, q a second one."""
    ndim = a.ndim - 1 + b.ndim - 1 - len(layout.batch)
    kernel = "abcdefghijklmnop"[:ndim]
    pick = lambda axes: "".join(kernel[axis] for axis in axes)
    batch = pick(layout.batch)
    return kernel, f"{batch}{pick(layout.fan_in)}r", f"{batch}r{pick(layout.outputs(ndim))}"


def _einsum(letters: str, *arrays: Array) -> Array:
    return jnp.einsum(letters, *arrays, precision=jax.lax.Precision.HIGHEST)


def _spread(values: Array, layout: Layout, ndim: int) -> Array:
    """Values [*B, *O] with the kernel's axes, inputs at size 1."""
    order = layout.batch + layout.outputs(ndim)
    values = jnp.transpose(values, sorted(range(values.ndim), key=lambda i: order[i]))
    return jnp.expand_dims(values, layout.fan_in)


def _wide(leaf: Array) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
