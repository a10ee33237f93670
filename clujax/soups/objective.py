"""What a soup is learned by: the outputs of a model, and their loss on a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Objective(NamedTuple):
    """A loss in two parts, so that outputs can be scaled (a temperature) or linearised (Gauss–Newton).

    Attributes:
        outputs: `outputs(params, batch, key) -> [B, ...]`.
        loss: `loss(outputs, batch) -> scalar`, the mean over the batch.
    """

    outputs: Callable[[PyTree, Any, PRNGKeyArray | None], Array]
    loss: Callable[[Array, Any], Float[Array, ""]]

    def __call__(self, params: PyTree, batch: Any, key: PRNGKeyArray | None = None) -> tuple[Float[Array, ""], dict]:
        """The loss as `loss_fn(params, batch, key) -> (loss, aux)`."""
        return self.loss(self.outputs(params, batch, key), batch), {}


def cross_entropy(outputs: Callable, *, label_smoothing: float = 0.0) -> Objective:
    """Mean cross-entropy of logits against `batch["y"]` (whole numbers), smoothed by a share of the uniform distribution.

    Args:
        outputs: `outputs(params, batch, key) -> logits [B, C]`.
        label_smoothing: in [0, 1).
    """

    def loss(logits, batch):
        if not label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
        target = optax.smooth_labels(jax.nn.one_hot(batch["y"], logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, target).mean()

    return Objective(outputs, loss)
