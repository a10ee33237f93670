"""Fisher diagonals of a request, from which its balanced masks are made, by one program for a stream."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.continual.method import Learner, Scene
from clujax.geometry import batch_diagonal


def fisher_of_batches(scene: Scene, kind: str = "batch") -> Callable[[Learner, Iterable[Mapping[str, Any]]], PyTree]:
    """`estimate(learner, batches)`: the mean over batches of their Fisher diagonals, in eval mode.

    Cost: one gradient per batch for `kind="batch"` (squares of batch means), one per row for "example".
    """
    microbatch = 1 if jax.default_backend() == "cpu" and kind != "batch" else None

    # The network's other state is an argument of the program, not a constant of it: it differs at each request.
    @partial(jax.jit, donate_argnums=0)
    def add(total, params, stats, batch):
        def losses(params, rows):
            return cross_entropy(scene.classifier.apply(params, stats, rows["x"], train=False)[0], rows["y"])

        found = batch_diagonal(losses, params, batch, kind=kind, microbatch=microbatch)
        return jax.tree.map(jnp.add, total, found)

    def estimate(learner, batches):
        wide = lambda leaf: jnp.zeros_like(leaf, dtype=jnp.promote_types(leaf.dtype, jnp.float32))
        total, count = jax.tree.map(wide, learner.params), 0
        for batch in batches:
            total = add(total, learner.params, learner.stats, {"x": batch["x"], "y": batch["y"]})
            count += 1
        return jax.tree.map(lambda leaf: leaf / count, total)

    return estimate


def passes(batch_at: Callable[[int], Any], count: int, batch_size: int, most: int | None = None) -> Iterable:
    """The batches of one pass over `count` rows, the last one filled from the next, at most `most` of them."""
    batches = math.ceil(count / batch_size)
    return (batch_at(i) for i in range(batches if most is None else min(batches, most)))
