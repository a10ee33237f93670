"""Learning without forgetting: the network before the request teaches it what the new rows looked like to it."""

import jax.numpy as jnp
import numpy as np

from clujax.adaptation.losses import cross_entropy, distillation
from clujax.adaptation.plans import teach, with_teachers
from clujax.continual.method import Method, Rules
from clujax.continual.methods.parts import adapting, check_training, forward_parts


def lwf(
    *,
    distill_weight: float = 1.0,
    temperature: float = 2.0,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn) + w T² KL(p_T(θ₀) ‖ p_T(θ)) on the new rows, over the classes known before.

    θ₀ is the network before the request, in eval mode, on the same augmented inputs; p_T is the softmax at temperature T of
    the logits of those classes that a remaining row has, and a first request has none. No old row is used, only the list of
    their classes; a forget-only request does nothing, and rows to forget are never used.

    Args:
      distill_weight: w.
      temperature: T > 0.

    Source: Li & Hoiem 2016, "Learning without Forgetting", without its warm-up of the new outputs. Cost: one gradient and one
    forward pass of a batch per step; memory: a second copy of the network.
    """
    settings = dict(locals())
    check_training(settings, distill_weight=0)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number.")

    def build(scene):
        labels = np.asarray(scene.columns["y"])

        def carry(learner, change, key):
            request = scene.bare._replace(stats=learner.stats)
            known = np.isin(np.arange(scene.num_classes), labels[change.remain])
            return with_teachers(request, teacher=(learner.params, learner.stats)) | {"known": jnp.asarray(known)}

        def loss(params, stats, batch, key):
            logits, shown, stats = forward_parts(scene.bare, params, stats, batch, key)
            # Far below every logit, and finite: with no class known, the distributions and their gradients are equal.
            old = lambda logits: jnp.where(stats["known"], logits, -1e9)
            before = teach(scene.bare, stats["teacher"], shown["learn"])
            learning = jnp.mean(cross_entropy(logits["learn"], batch["learn"]["y"]))
            apart = jnp.mean(distillation(old(logits["learn"]), old(before), temperature))
            return learning + distill_weight * apart, (stats, {"learn_loss": learning, "distill_loss": apart})

        return Rules(adapting(scene, loss, settings, parts=("learn",), carry=carry))

    return Method("lwf", settings, build, replay="none")
