"""SCRUB: push the student away from its teacher on the forget rows, keep it close on the rest."""

import math

import jax
import jax.numpy as jnp

from clujax.unlearning.losses import cross_entropy, distillation
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.request import compiled_step, forward, stream


def scrub(
    *,
    epochs: int = 6,
    forget_epochs: int = 2,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    temperature: float = 4.0,
    supervision: float = 0.99,
    imitation: float = 0.001,
) -> Method:
    """Alternate a pass that maximises KL(teacher ‖ student) on forget with one of γ·CE + α·KL on remain.

    The first `forget_epochs` epochs begin with a forget pass; the teacher is the original network.
    Source: Kurmanji et al. 2023, γ = supervision, α = imitation. Cost: one gradient and one forward per step.
    """
    settings = dict(locals())

    def prepare(request, key):
        forget_key, remain_key = jax.random.split(key)
        per_forget = math.ceil(len(request.forget["y"]) / batch_size)
        per_remain = math.ceil(len(request.remain["y"]) / batch_size)
        names = []
        for epoch in range(epochs):
            names += ["forget"] * (per_forget if epoch < forget_epochs else 0) + ["remain"] * per_remain
        positions = [names[:s].count(name) for s, name in enumerate(names)]
        streams = {
            "forget": stream(request, request.forget, batch_size, forget_key),
            "remain": stream(request, request.remain, batch_size, remain_key),
        }
        tx = sgd(learning_rate, len(names), momentum=momentum, weight_decay=weight_decay)

        def teacher(batch):
            return jax.lax.stop_gradient(
                request.classifier.apply(request.params, request.stats, batch["x"], train=False)[0]
            )

        def away(params, stats, batch, key):
            logits, stats = forward(request, params, stats, batch, key, train=True)
            return -jnp.mean(distillation(logits, teacher(batch), temperature)), (stats, {})

        def close(params, stats, batch, key):
            logits, stats = forward(request, params, stats, batch, key, train=True)
            imitate = jnp.mean(distillation(logits, teacher(batch), temperature))
            learn = jnp.mean(cross_entropy(logits, batch["y"]))
            return supervision * learn + imitation * imitate, (stats, {})

        steps = {"forget": compiled_step(request, away, tx), "remain": compiled_step(request, close, tx)}
        return Plan(
            request.params,
            request.stats,
            tx,
            steps,
            lambda s: [(names[s], streams[names[s]](positions[s]))],
            len(names),
        )

    return Method("scrub", prepare, settings, frozenset({"forget", "remain", "teacher"}))
