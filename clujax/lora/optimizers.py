"""LoRA+: the outer factor learns faster than the inner one."""

from collections.abc import Callable

import optax
from jaxtyping import ScalarLike

from clujax.lora.adapters import labels

LearningRate = ScalarLike | optax.Schedule


def lora_plus(
    optimizer_for: Callable[[LearningRate], optax.GradientTransformation],
    learning_rate: LearningRate,
    ratio: float = 16.0,
) -> optax.GradientTransformation:
    """An optimizer of adapters with lr_b = ratio · lr_a; a trained magnitude (DoRA) has lr_a.

    Each group has an optimizer of its own: what looks at all updates at once, such as clipping by the global norm, goes
    before this one in an `optax.chain`.

    Args:
      optimizer_for: learning rate -> optimizer, such as `optax.adamw` or `partial(optax.adamw, weight_decay=0.0)`.
      learning_rate: of a; a number or a schedule.
      ratio: λ; 16 in the paper's configurations.

    Raises:
      ValueError: a ratio that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> adapters = {"kernel": {"a": jnp.ones((3, 1)), "b": jnp.ones((1, 2))}}
      >>> optimizer = lora_plus(optax.sgd, 0.1)
      >>> updates, _ = optimizer.update(adapters, optimizer.init(adapters))
      >>> float(updates["kernel"]["b"][0, 0] / updates["kernel"]["a"][0, 0])
      16.0

    Source: Hayou et al. 2024.
    """
    if not ratio > 0:
        raise ValueError(f"ratio is {ratio}; expected a positive number (16 in the paper).")
    faster = (lambda step: ratio * learning_rate(step)) if callable(learning_rate) else ratio * learning_rate
    slow = optimizer_for(learning_rate)
    return optax.multi_transform({"a": slow, "b": optimizer_for(faster), "magnitude": slow}, labels)
