"""A forget step and its repairs as one program."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree


def cycle(forget_step: Callable, remain_step: Callable) -> Callable:
    """One forget step, then a remain step for each stacked batch, as one function to compile: for accelerators.

    Args:
      forget_step, remain_step: pure `step(state, batch) -> (state, metrics)`.

    Returns:
      `run(state, forget_batch, remain_batches) -> (state, (forget metrics, remain metrics [T]))`, where `remain_batches` has
      a leading axis of length T. The same trajectory as calling the steps one by one.

    On a CPU prefer the steps one by one: convolutions inside `lax.scan` are far slower there than dispatched ones.
    """

    def run(state: PyTree, forget_batch: PyTree, remain_batches: PyTree):
        state, forgetting = forget_step(state, forget_batch)
        state, remaining = jax.lax.scan(remain_step, state, remain_batches)
        return state, (forgetting, remaining)

    return run
