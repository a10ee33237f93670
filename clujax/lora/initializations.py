"""How a pair of factors begins: from matrices [*batch, n, m] of a kernel to factors [*batch, n, r] and [*batch, r, m].

Matrices have inputs before outputs, the transposes of the papers': A = aᵀ and B = bᵀ.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Svd = tuple[Float[Array, "... n k"], Float[Array, "... k"], Float[Array, "... k m"]]
Direction = Callable[[int], tuple[slice, slice]]
Sizes = Callable[[Float[Array, "... r"], int, int, float], tuple[Any, Any]]


class Initialization(NamedTuple):
    """Factors of a kernel before training.

    Attributes:
      name: for messages.
      factors: (key, matrix [*batch, n, m] float32, rank, scale, gradient or None) -> (a [*batch, n, r], b [*batch, r, m]).
      shifts_base: the base becomes W − s·a·b, so that the merged kernel begins as W; without it b must begin at 0.
      needs_gradient: the loss's gradient at the base is asked for.
      rank_factor: r times this must fit both sides of the kernel.
    """

    name: str
    factors: Callable[..., tuple[Array, Array]]
    shifts_base: bool = False
    needs_gradient: bool = False
    rank_factor: int = 1


def _drawn(draw: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
    """A drawn, b zero."""

    def factors(
        key: PRNGKeyArray, matrix: Float[Array, "... n m"], rank: int, scale: float, gradient: Any = None
    ) -> tuple[Float[Array, "... n r"], Float[Array, "... r m"]]:
        *batch, n, m = matrix.shape
        return draw(key, (*batch, n, rank)), jnp.zeros((*batch, rank, m))

    return factors


def _uniform(bound: Callable[[int], float]) -> Callable[..., Array]:
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound(shape[-2]), maxval=bound(shape[-2]))


# U(±1/√n): Kaiming-uniform with a = √5, the default of PEFT, used by Flat-LoRA.
kaiming = Initialization("kaiming", _drawn(_uniform(lambda n: 1 / math.sqrt(n))))
# N(0, 1/r²), "gaussian" of PEFT.
gaussian = Initialization("gaussian", _drawn(lambda key, shape: jax.random.normal(key, shape) / shape[-1]))
# U(±√(6/n)), the default of flax's and qwix's LoRA: 2.45 times as wide as `kaiming`.
he = Initialization("he", _drawn(_uniform(lambda n: math.sqrt(6 / n))))


@functools.cache  # equal settings give equal, hence statically equal, rules
def pissa(iterations: int | None = None) -> Initialization:
    """The r largest singular directions of W, shared evenly: a = U√(S/s), b = √(S/s)Vᵀ; the base keeps the rest.

    Args:
      iterations: None is an exact decomposition, n·m·min(n, m) operations; a number is that of rounds of randomised subspace
        iteration from the key (PEFT's `pissa_niter_4`), n·m·r operations a round.

    Source: Meng et al. 2024.
    """

    def factors(key: PRNGKeyArray, matrix: Array, rank: int, scale: float, gradient: Any = None) -> tuple[Array, Array]:
        left, values, right = leading(key, matrix, rank, iterations)
        half = jnp.sqrt(values / scale)
        return left * half[..., None, :], half[..., :, None] * right

    return Initialization("pissa", factors, shifts_base=True)


def _olora(
    key: PRNGKeyArray, matrix: Float[Array, "... n m"], rank: int, scale: float, gradient: Any = None
) -> tuple[Float[Array, "... n r"], Float[Array, "... r m"]]:
    outputs, inputs = jnp.linalg.qr(jnp.swapaxes(matrix, -1, -2))
    return jnp.swapaxes(inputs[..., :rank, :], -1, -2), jnp.swapaxes(outputs[..., :, :rank], -1, -2)


# The first r columns of Q and rows of R of the paper's W (outputs × inputs) = QR (Büyükakyüz 2024).
olora = Initialization("olora", _olora, shifts_base=True)


def a_first(rank: int) -> tuple[slice, slice]:
    """Directions 1 to r of the gradient for a, the next r for b ("ArB2r", the default of PEFT)."""
    return slice(0, rank), slice(rank, 2 * rank)


def b_first(rank: int) -> tuple[slice, slice]:
    """Directions 1 to r of the gradient for b, the next r for a ("A2rBr")."""
    return slice(rank, 2 * rank), slice(0, rank)


def alternating(rank: int) -> tuple[slice, slice]:
    """Every second direction of the gradient for b, from the first on, the others for a ("ArBr")."""
    return slice(1, 2 * rank, 2), slice(0, 2 * rank, 2)


@functools.cache
def stable(gamma: float = 16.0) -> Sizes:
    """Sizes of LoRA-GA as PEFT has them: a is left alone, b gets its singular values times m^¼/√γ for m outputs."""
    return lambda values, n, m, scale: (1.0, values * m**0.25 / math.sqrt(gamma))


@functools.cache
def stable_orthogonal(gamma: float = 16.0) -> Sizes:
    """Sizes of the paper's own code: both get m^¼/√γ for m outputs, without singular values."""
    return lambda values, n, m, scale: (m**0.25 / math.sqrt(gamma), m**0.25 / math.sqrt(gamma) * jnp.ones_like(values))


STABLE = stable()


@functools.cache
def lora_ga(direction: Direction = a_first, sizes: Sizes = STABLE, iterations: int | None = None) -> Initialization:
    """Singular directions of the loss's gradient G at W, so that the first step moves W as full training would.

    Args:
      direction: r -> (which of the 2r leading directions are a's, which b's): `a_first`, `b_first`, `alternating`.
      sizes: (singular values of b's directions [*batch, r], n, m, s) -> (factor of a, factors of b): `stable(γ)`,
        `stable_orthogonal(γ)`.
      iterations: as in `pissa`.

    Source: Wang et al. 2024.
    """

    def factors(key: PRNGKeyArray, matrix: Array, rank: int, scale: float, gradient: Array) -> tuple[Array, Array]:
        left, values, right = leading(key, gradient, 2 * rank, iterations)
        of_a, of_b = direction(rank)
        size_a, size_b = sizes(values[..., of_b], *matrix.shape[-2:], scale)
        return size_a * left[..., of_a], size_b[..., None] * right[..., of_b, :]

    return Initialization("lora_ga", factors, shifts_base=True, needs_gradient=True, rank_factor=2)


def leading(key: PRNGKeyArray, matrix: Float[Array, "... n m"], rank: int, iterations: int | None = None) -> Svd:
    """The `rank` largest singular values and their vectors: left [*, n, k], values [*, k], right [*, k, m].

    Args:
      iterations: None is exact; a number is that of subspace iterations from a random start of min(2k, n, m) columns.

    Source: Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.
    """
    with jax.default_matmul_precision("highest"):
        if iterations is None:
            left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
        else:
            width = min(2 * rank, *matrix.shape[-2:])
            start = jax.random.normal(key, (*matrix.shape[:-2], matrix.shape[-1], width), matrix.dtype)
            basis = jnp.linalg.qr(matrix @ start)[0]
            for _ in range(iterations):
                basis = jnp.linalg.qr(matrix @ jnp.linalg.qr(jnp.swapaxes(matrix, -1, -2) @ basis)[0])[0]
            left, values, right = jnp.linalg.svd(jnp.swapaxes(basis, -1, -2) @ matrix, full_matrices=False)
            left = basis @ left
    return left[..., :rank], values[..., :rank], right[..., :rank, :]


def _refused(key: PRNGKeyArray, matrix: Array, rank: int, scale: float, gradient: Any = None) -> tuple[Array, Array]:
    raise ValueError("this spec came with trained adapters and knows no beginning; build one from rules for new ones.")


# Of adapters that were read from a file.
trained = Initialization("trained", _refused)
