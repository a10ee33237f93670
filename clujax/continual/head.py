"""A head that grows with the stream: outputs of a fixed number, closed until a row of their class is learned."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from clujax.models import Classifier

OPEN = "open"  # the entry of stats that says which outputs exist
CLOSED = -1e4  # logit of one that does not: no probability, no gradient


def growing(classifier: Classifier, num_classes: int) -> Classifier:
    """The same network whose outputs begin closed; `open_classes` opens them.

    Which are open is part of the network's stats, so that shapes stay and nothing is compiled anew when a class is added. A
    closed output has no probability and no gradient: the network is the one with as many outputs as are open.
    """

    def init(key, inputs):
        params, stats = classifier.init(key, inputs)
        return params, stats | {OPEN: jnp.zeros(num_classes, bool)}

    def apply(params, stats, inputs, **options):
        own = {name: value for name, value in stats.items() if name != OPEN}
        logits, own = classifier.apply(params, own, inputs, **options)
        return jnp.where(stats[OPEN], logits, CLOSED), own | {OPEN: stats[OPEN]}

    def features(params, stats, inputs):
        return classifier.features(params, {name: value for name, value in stats.items() if name != OPEN}, inputs)

    return Classifier(init, apply, features, classifier.head)


def open_classes(
    classifier: Classifier, params: PyTree, stats: PyTree, classes: Collection[int], inputs: Any, key: PRNGKeyArray
) -> tuple[PyTree, PyTree]:
    """Open outputs, with weights as a fresh network has them; those already open stay as they are.

    Args:
      classifier: made by `growing`; its head is a linear layer with `kernel` [features, C] and maybe `bias` [C].
      classes: to open.
      inputs: any batch, for the shapes of a fresh network.
      key: of the fresh weights.
    """
    before = stats[OPEN]
    after = before | jnp.isin(jnp.arange(len(before)), jnp.asarray(sorted(classes), int))
    fresh, _ = classifier.init(key, inputs)
    new = after & ~before

    def renewed(path, leaf, other):
        inside = tuple(getattr(entry, "key", None) for entry in path[: len(classifier.head)]) == tuple(classifier.head)
        return jnp.where(new, other, leaf) if inside else leaf

    return jax.tree_util.tree_map_with_path(renewed, params, fresh), stats | {OPEN: after}


def as_open(stats: PyTree, like: PyTree) -> PyTree:
    """The stats of a fresh network, with those outputs open that are open in `like`; a head that does not grow has none."""
    return stats | {OPEN: like[OPEN]} if OPEN in like else stats


def seen(logits: Array | np.ndarray) -> Bool[Any, "..."]:
    """Where logits belong to outputs that were open."""
    return logits > CLOSED / 2
