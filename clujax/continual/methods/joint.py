"""Joint: remaining, new and forgotten rows in one Euclidean step, without masks and without repair."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import adaptive_ascent, cross_entropy
from clujax.adaptation.schedules import linear
from clujax.continual.method import Method, Rules
from clujax.continual.methods.parts import adapting, check_training, forward_parts


def joint(
    *,
    ascent: float = 1.0,
    learn_weight: float = 1.0,
    exponent: float = 0.5,
    floor: float = 1e-3,
    objective: Callable | None = None,
    schedule: Callable[[float], float] = linear,
    max_norm: float | None = None,
    replay: str = "memory",
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(replay) + w CE(learn) + α_s U(forget), all three in one step: the plain form of the unified gradient.

    U = −Σ ε̃_i ℓ_i with ε̃_i ∝ ℓ_i^(−λ) (`adaptive_ascent`), α_s = α · `schedule(s/N)`. A term without rows falls away:
    a learn-only request is experience replay, a forget-only one ascends beside replay.

    Args:
      ascent: α ≥ 0. Nothing bounds the ascent: from some α on it destroys the network.
      learn_weight: w.
      exponent, floor: λ and the least loss of the ascent; exponent 0 is plain gradient ascent.
      objective: U in place of those, `(logits, labels, key) -> (scalar to minimise, metrics)`, for example
        `random_relabel(num_classes)`.
      schedule: fall of the ascent weight; see `clujax.adaptation.schedules`.
      max_norm: global norm to which the whole gradient is clipped; None does not clip.
      replay: where old rows come from, "memory" or "remain" (all remaining rows).

    Source: the Euclidean ablation of UG-CLU, Huang et al. 2025. Cost: a gradient of up to three batches per step.
    """
    settings = dict(locals())
    check_training(settings, ascent=0, learn_weight=0)
    push = objective or adaptive_ascent(exponent, floor)

    def build(scene):
        weights = {"learn": learn_weight, "replay": 1.0}

        def loss(params, stats, batch, key):
            network_key, objective_key = jax.random.split(key)
            logits, _, stats = forward_parts(scene.bare, params, stats, batch, network_key)
            total, metrics = jnp.zeros(()), {}
            for part, weight in weights.items():
                if part in logits:
                    metrics[f"{part}_loss"] = jnp.mean(cross_entropy(logits[part], batch[part]["y"]))
                    total += weight * metrics[f"{part}_loss"]
            if "forget" in logits:
                value, found = push(logits["forget"], batch["forget"]["y"], objective_key)
                total += batch["weight"] * value
                metrics |= {f"forget/{name}": number for name, number in found.items()}  # as `run_warnings` reads them
            return total, (stats, metrics)

        annotate = lambda s: {"weight": ascent * schedule(s / steps)}
        return Rules(adapting(scene, loss, settings, parts=("learn", "replay", "forget"), annotate=annotate))

    return Method("joint", settings, build, replay=replay)
