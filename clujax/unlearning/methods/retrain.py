"""Retrain: the exact answer, a fresh network trained on the remaining rows."""

import jax

from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, train_on


def retrain(
    *,
    epochs: float = 30,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Train a fresh initialisation on the remaining rows with the original recipe.

    The reference that every other method is read against; two of them with different keys give the noise floor.
    Cost: one gradient per step.
    """
    settings = dict(locals())
    check_numbers(settings)

    def prepare(request, key):
        init_key, stream_key = jax.random.split(key)
        params, stats = request.classifier.init(init_key, request.remain["x"][:1])
        return train_on(request, request.remain, params, stats, stream_key, **settings)

    return Method("retrain", prepare, settings, frozenset({"remain", "init"}))
