"""Kernels whose every centre has its own bandwidths (LAB RBF): k_j(t) = k(‖θ_j ⊙ (t − x_j)‖²).

Θ holds inverse length scales, so larger is narrower and the sign is irrelevant. The Gram matrix is asymmetric (column j
uses θ_j), has a unit diagonal, and is neither positive semi-definite nor always invertible.

Source: He et al., Learning Analysis of Kernel Ridgeless Regression with Asymmetric Kernel Learning, arXiv 2406.01435.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

__all__ = ["gaussian", "lab_gram", "lab_kernel", "lab_sqdist", "laplacian", "sqdist_direct", "sqdist_gemm"]

Matrix = Float[Array | np.ndarray, "..."]


def gaussian(sqdist: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian profile exp(−d²) of a squared scaled distance (arXiv 2406.01435, eq. 1)."""
    return jnp.exp(-sqdist)


def laplacian(sqdist: Float[Array, "..."]) -> Float[Array, "..."]:
    """Laplacian profile exp(−d) of a squared scaled distance; its gradient at distance zero is 0, not NaN.

    Example:
        >>> abs(float(jax.grad(laplacian)(jnp.float32(0.0))))
        0.0
    """
    away = sqdist > 0
    return jnp.exp(-jnp.where(away, jnp.sqrt(jnp.where(away, sqdist, 1)), 0))


@jax.custom_jvp
def sqdist_direct(x: Matrix, support: Matrix, theta: Matrix) -> Float[Array, "b n"]:
    """Squared scaled distances by differences, O(B·n) memory: exact zeros where a row is a support row.

    Values are exact; derivatives of every order go through `sqdist_gemm`'s products, where no root follows that could
    magnify a cancellation.
    """

    def add(total, feature):
        rows, columns, scale = feature
        return total + jnp.square((rows[:, None] - columns) * scale), None

    # A reduction over the last axis would not be vectorised on a CPU, and its gradient would hold [b, n, m]. Blank features
    # fill the last block: a remainder outside the loop would be computed anew by whatever uses the distances.
    block = 4
    features = (jnp.asarray(each).T for each in (x, support, theta))
    features = tuple(jnp.pad(each, ((0, -len(each) % block), (0, 0))) for each in features)
    start = jnp.zeros((len(x), len(support)), jnp.result_type(*features))
    return jax.lax.scan(add, start, features, unroll=block)[0]


def _sqdist_direct_jvp(primals, tangents):
    live = [i for i, each in enumerate(tangents) if not isinstance(each, SymbolicZero)]
    merge = lambda chosen: [chosen[live.index(i)] if i in live else each for i, each in enumerate(primals)]
    moved = jax.jvp(lambda *chosen: _products(*merge(chosen)), *([v[i] for i in live] for v in (primals, tangents)))[1]
    return sqdist_direct(*primals), moved


sqdist_direct.defjvp(_sqdist_direct_jvp, symbolic_zeros=True)


def sqdist_gemm(x: Matrix, support: Matrix, theta: Matrix) -> Float[Array, "b n"]:
    """Squared scaled distances by two matrix products, O(B·n) memory; absolute error about eps·max‖θ ⊙ x‖²."""
    return jnp.maximum(_products(x, support, theta), 0)


def _products(x: Matrix, support: Matrix, theta: Matrix) -> Float[Array, "b n"]:
    highest = jax.lax.Precision.HIGHEST  # TF32 or bfloat16 products would leave nothing of the differences
    weight = jnp.square(theta)
    square = jnp.matmul(jnp.square(x), weight.T, precision=highest)
    cross = jnp.matmul(jnp.asarray(x), (weight * support).T, precision=highest)
    return square - 2 * cross + jnp.sum(weight * jnp.square(support), -1)


def lab_sqdist(x: Matrix, support: Matrix, theta: Matrix, *, profile: Callable = laplacian) -> Float[Array, "b n"]:
    """Distances by the way that suits the profile: products for the Gaussian, differences for all others.

    A root of a distance near zero would turn the cancellation error 1e-7 of the products into 3e-4.
    """
    return (sqdist_gemm if profile is gaussian else sqdist_direct)(x, support, theta)


def lab_kernel(
    x: Matrix, support: Matrix, theta: Matrix, *, profile: Callable = laplacian, sqdist: Callable | None = None
) -> Float[Array, "b n"]:
    """Kernel matrix between rows and support points.

    Args:
        x: [b, m] rows.
        support: [n, m] support points.
        theta: [n, m] their inverse length scales.
        profile: k of the squared scaled distance, k(0) = 1 (`laplacian`, `gaussian`, or any function).
        sqdist: `sqdist_direct` or `sqdist_gemm`; by default as `lab_sqdist` chooses.

    Returns:
        [b, n] values in (0, 1] for the two built-in profiles.
    """
    distance = lab_sqdist(x, support, theta, profile=profile) if sqdist is None else sqdist(x, support, theta)
    return profile(distance)


def lab_gram(
    support: Matrix, theta: Matrix, *, profile: Callable = laplacian, sqdist: Callable | None = None
) -> Float[Array, "n n"]:
    """Kernel matrix of the support with itself; the diagonal is exactly 1 whatever way the distances took.

    Example:
        >>> gram = lab_gram(jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0]]), profile=gaussian)
        >>> [[round(float(value), 3) for value in row] for row in gram]
        [[1.0, 0.368], [1.0, 1.0]]
    """
    gram = lab_kernel(support, support, theta, profile=profile, sqdist=sqdist)
    return jnp.where(jnp.eye(len(support), dtype=bool), jnp.ones((), gram.dtype), gram)
