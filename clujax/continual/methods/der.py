"""Dark experience replay: hold the network's logits on old rows where they were when those rows were learned."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clujax.adaptation.losses import cross_entropy
from clujax.continual.head import seen
from clujax.continual.method import Method, Rules, Scene
from clujax.continual.methods.parts import adapting, check_training, forward_parts


def der(
    *,
    alpha: float = 0.3,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn) + α mean (h − h₀)² over rows from memory, h₀ being the logits stored with a row.

    The mean is over rows and over the classes that the head had when the row was stored. Logits are stored at the end of a
    request, in eval mode (the paper stores them while it trains). A forget-only request holds the logits of the rows that
    are left; rows to forget are taken out of memory with their logits, and never used.

    Args:
      alpha: α ≥ 0 (published 0.1 to 0.5).

    Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning". Cost: a gradient of two batches per step.
    """
    settings = dict(locals())
    check_training(settings, alpha=0)

    def build(scene):
        phases = adapting(scene, dark_loss(scene, alpha), settings, parts=("learn", "replay"))
        return Rules(phases, keep_logits=True)

    return Method("der", settings, build)


def der_plus(
    *,
    alpha: float = 0.3,
    beta: float = 0.5,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """DER++: what `der` minimises, plus β CE on a second draw from memory (published β: 0.5 to 1).

    Source: Buzzega et al. 2020. Cost: a gradient of three batches per step.
    """
    settings = dict(locals())
    check_training(settings, alpha=0, beta=0)

    def build(scene):
        phases = adapting(scene, dark_loss(scene, alpha, beta), settings, parts=("learn", "replay", "second"))
        return Rules(phases, keep_logits=True)

    return Method("der_plus", settings, build)


def dark_loss(scene: Scene, alpha: float, beta: float = 0.0) -> Callable:
    """CE(learn) + α · squared distance to stored logits (replay) + β CE(second), of the parts that a batch has."""

    def loss(params, stats, batch, key):
        logits, _, stats = forward_parts(scene.bare, params, stats, batch, key)
        total, metrics = jnp.zeros(()), {}
        for part, weight in (("learn", 1.0), ("second", beta)):
            if part in logits:
                metrics[f"{part}_loss"] = jnp.mean(cross_entropy(logits[part], batch[part]["y"]))
                total += weight * metrics[f"{part}_loss"]
        if "replay" in logits:
            old = batch["replay"]
            metrics["dark_loss"] = squared_distance(logits["replay"], old["logits"], old["width"])
            total += alpha * metrics["dark_loss"]
        return total, (stats, metrics)

    return loss


def squared_distance(
    logits: Float[Array, "B C"], stored: Float[Array, "B C"], width: Int[Array, " B"]
) -> Float[Array, ""]:
    """Mean (h − h₀)² over the entries that are stored: a row's first `width`, less those of closed outputs.

    Example:
      >>> float(squared_distance(jnp.array([[1.0, 5.0]]), jnp.array([[3.0, 0.0]]), jnp.array([1])))
      4.0
    """
    there = (jnp.arange(stored.shape[1]) < width[:, None]) & seen(stored)
    return jnp.sum(jnp.square(logits - stored), where=there) / jnp.maximum(jnp.sum(there), 1)
