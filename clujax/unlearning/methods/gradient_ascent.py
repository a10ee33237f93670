"""Gradient ascent: climb the loss of the forget rows."""

import math

import optax

from clujax.adaptation.losses import adaptive_ascent, objective_loss
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.plans import check_numbers, num_batches
from clujax.adaptation.request import compiled_step, stream


def gradient_ascent(
    *,
    epochs: float = 9,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    max_norm: float | None = 0.1,
    train: bool = False,
) -> Method:
    """Maximise cross-entropy on the forget rows at a constant rate.

    Bounded by nothing: the window between no effect and collapse is about a decade of learning rate wide.

    Args:
      max_norm: global norm that gradients are clipped to; None does not clip.
      train: run in train mode, where BatchNorm's averages follow the forget rows (SalUn's code); by default they stay.

    Source: the form of SFR-on's table (published rate 1e-4). Cost: one gradient per step.
    """
    settings = dict(locals())
    check_numbers(settings)
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected a positive norm, or None for no clipping.")

    def prepare(request, key):
        num_steps = math.ceil(epochs * num_batches(request.forget, batch_size))
        tx = optax.chain(
            optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm),
            optax.add_decayed_weights(weight_decay),
            optax.trace(momentum),
            optax.scale_by_learning_rate(learning_rate),
        )
        batch_at = stream(request, request.forget, batch_size, key)
        loss = objective_loss(request, adaptive_ascent(0.0), train=train)
        work = lambda s: [("forget", batch_at(s) | {"weight": 1.0})]
        return Plan(request.params, request.stats, tx, {"forget": compiled_step(request, loss, tx)}, work, num_steps)

    return Method("gradient_ascent", prepare, settings, frozenset({"forget"}))
