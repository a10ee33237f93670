"""Balanced masks of a request: which weights matter more to the rows that change than to those that stay."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.continual.method import Learner, Scene
from clujax.geometry import diagonal_estimator


def fisher_of_rows(scene: Scene, kind: str = "batch") -> Callable[[Learner, Iterable[Mapping[str, Any]]], PyTree]:
    """`estimate(learner, batches)`: the Fisher diagonal in eval mode, compiled once for all requests of a stream.

    Cost: one gradient per row for `kind="example"`, one per batch for "batch".
    """

    # The network's other state is an argument of the program, not a constant of it: it differs at each request.
    def losses(network, batch):
        logits, _ = scene.classifier.apply(network["params"], network["stats"], batch["x"], train=False)
        return cross_entropy(logits, batch["y"])

    microbatch = 1 if jax.default_backend() == "cpu" and kind != "batch" else None
    estimate = diagonal_estimator(losses, kind=kind, microbatch=microbatch)

    def of(learner, batches):
        rows = ({"x": batch["x"], "y": batch["y"]} for batch in batches)
        return estimate({"params": learner.params, "stats": learner.stats}, rows)["params"]

    return of


def passes(batch_at: Callable[[int], Any], count: int, batch_size: int, most: int | None = None) -> Iterable:
    """The batches of one pass over `count` rows, the last one filled from the next, at most `most` of them."""
    batches = math.ceil(count / batch_size)
    return (batch_at(i) for i in range(batches if most is None else min(batches, most)))
