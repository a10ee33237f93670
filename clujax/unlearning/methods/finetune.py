"""Finetune: go on training on the remaining rows only."""

import math

from clujax.unlearning.losses import descend
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.request import compiled_step, stream


def finetune(
    *,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise cross-entropy on the remaining rows, from the original network. Cost: one gradient per step."""
    settings = dict(locals())

    def prepare(request, key):
        return train_on(request, request.remain, request.params, request.stats, key, **settings)

    return Method("finetune", prepare, settings, frozenset({"remain"}))


def train_on(
    request, rows, params, stats, key, *, epochs, batch_size, learning_rate, momentum, weight_decay, wrap=None
):
    """A plan that trains `params` on `rows` by cross-entropy; `wrap(tx)` may wrap the optimizer."""
    num_steps = math.ceil(epochs * math.ceil(len(rows["y"]) / batch_size))
    tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
    tx = wrap(tx) if wrap else tx
    batch_at = stream(request, rows, batch_size, key)
    steps = {"remain": compiled_step(request, descend(request), tx)}
    return Plan(params, stats, tx, steps, lambda s: [("remain", batch_at(s))], num_steps)
