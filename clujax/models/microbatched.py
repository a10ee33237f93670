"""A large batch through a network in parts: the memory of one part, the outputs of all rows."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from clujax.models.classifier import Classifier


def microbatched(classifier: Classifier, parts: int, *, unroll: bool = False) -> Classifier:
    """The same classifier, which reads a batch in `parts` parts and keeps the activations of one at a time.

    This is gradient accumulation for any loss: the loss sees the outputs of all rows, so that one which looks at the whole
    batch (adaptive weights, a contrastive loss) keeps its value, where a mean over the parts' losses would change it.
    Gradients of the parts add up as the program walks back. BatchNorm normalises by the rows of a part and takes the parts
    into its averages one after another. A batch that `parts` does not divide goes through whole.

    Args:
        classifier: to read in parts.
        parts: how many.
        unroll: write the parts out one after another instead of a loop, which is slow for convolutions on a CPU.

    Raises:
        ValueError: parts is below 1.

    Cost: one forward pass more than without parts, since each part is computed again on the way back.
    """
    if parts < 1:
        raise ValueError(f"parts is {parts}; expected at least 1.")
    if parts == 1:
        return classifier

    def apply(params, stats, inputs, *, train=False, key=None):
        if len(inputs) % parts:
            return classifier.apply(params, stats, inputs, train=train, key=key)

        @jax.checkpoint
        def one(params, stats, piece, number):
            own = None if key is None else jax.random.fold_in(key, number)
            return classifier.apply(params, stats, piece, train=train, key=own)

        def read(stats, piece):
            logits, stats = one(params, stats, *piece)
            return stats, logits

        stats, logits = jax.lax.scan(read, stats, (_cut(inputs, parts), jnp.arange(parts)), unroll=unroll)
        return logits.swapaxes(0, 1).reshape(len(inputs), *logits.shape[2:]), stats

    return classifier._replace(apply=apply)


def _cut(inputs: Array, parts: int) -> Any:
    # Part j takes the rows j, j + parts, ...: every device has rows in every part, and none changes its place.
    return inputs.reshape(len(inputs) // parts, parts, *inputs.shape[1:]).swapaxes(0, 1)
