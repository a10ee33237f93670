"""How a pair of factors begins: from matrices [*batch, n, m] of a kernel to factors [*batch, n, r] and [*batch, r, m]."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


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
