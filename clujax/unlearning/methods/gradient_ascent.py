"""Gradient ascent: climb the loss of the forget rows."""

import math

import optax

from clujax.unlearning.losses import adaptive_ascent, objective_loss
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.request import compiled_step, stream


def gradient_ascent(
    *,
    epochs: float = 9,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    max_norm: float = 0.1,
) -> Method:
    """Maximise cross-entropy on the forget rows, clipped, in eval mode (BatchNorm averages stay).

    Bounded below by nothing: the window between no effect and collapse is about a decade of learning rate wide.
    Cost: one gradient per step.
    """
    settings = dict(locals())

    def prepare(request, key):
        num_steps = math.ceil(epochs * math.ceil(len(request.forget["y"]) / batch_size))
        tx = optax.chain(
            optax.clip_by_global_norm(max_norm),
            optax.add_decayed_weights(weight_decay),
            optax.trace(momentum),
            optax.scale_by_learning_rate(learning_rate),
        )
        batch_at = stream(request, request.forget, batch_size, key)
        steps = {"forget": compiled_step(request, objective_loss(request, adaptive_ascent(0.0), train=False), tx)}
        return Plan(
            request.params,
            request.stats,
            tx,
            steps,
            lambda s: [("forget", batch_at(s) | {"weight": 1.0})],
            num_steps,
        )

    return Method("gradient_ascent", prepare, settings, frozenset({"forget"}))
