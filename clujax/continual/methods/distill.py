"""Distill: a competent teacher for what is kept, an untrained one for what is to be forgotten."""

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import cross_entropy, distillation
from clujax.adaptation.plans import teach, with_teachers
from clujax.continual.head import as_open
from clujax.continual.method import Method, Rules
from clujax.continual.methods.parts import adapting, check_training, forward_parts


def distill(
    *,
    gamma: float = 0.5,
    temperature: float = 1.0,
    replay: str = "memory",
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise γ [CE(learn) + KL(θ₀ ‖ θ on replay)] + (1 − γ) KL(θ_new ‖ θ on forget).

    θ₀ is the network before the request, θ_new a fresh initialisation drawn for the request; both teach in eval mode on the
    same augmented inputs, and KL at temperature T is multiplied by T². A learn-only request leaves the first bracket, a
    forget-only one the two divergences.

    Args:
      gamma: γ in [0, 1].
      temperature: T > 0.
      replay: where old rows come from, "memory" or "remain" (all remaining rows).

    Source: Chatterjee et al. 2024, "A Unified Framework for Continual Learning and Unlearning" (UniCLUN), without its
    contrastive terms. Cost: a gradient and two forward passes of up to three batches per step; memory: three copies of the
    network.
    """
    settings = dict(locals())
    check_training(settings)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; expected a share in [0, 1].")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number.")

    def build(scene):
        init = jax.jit(scene.classifier.init)

        def carry(learner, change, key):
            request = scene.bare._replace(stats=learner.stats)
            params, stats = init(key, jnp.zeros_like(scene.columns["x"][:1]))
            untrained = params, as_open(stats, learner.stats)
            return with_teachers(request, good=(learner.params, learner.stats), bad=untrained)

        def loss(params, stats, batch, key):
            logits, shown, stats = forward_parts(scene.bare, params, stats, batch, key)
            total, metrics = jnp.zeros(()), {}
            if "learn" in logits:
                metrics["learn_loss"] = jnp.mean(cross_entropy(logits["learn"], batch["learn"]["y"]))
                total += gamma * metrics["learn_loss"]
            for part, teacher, weight in (("replay", "good", gamma), ("forget", "bad", 1 - gamma)):
                if part in logits:
                    target = teach(scene.bare, stats[teacher], shown[part])
                    metrics[f"{part}_divergence"] = jnp.mean(distillation(logits[part], target, temperature))
                    total += weight * metrics[f"{part}_divergence"]
            return total, (stats, metrics)

        return Rules(adapting(scene, loss, settings, parts=("learn", "replay", "forget"), carry=carry))

    return Method("distill", settings, build, replay=replay)
