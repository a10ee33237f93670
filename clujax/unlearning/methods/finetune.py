"""Finetune: go on training on the remaining rows only."""

from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, train_on


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
    check_numbers(settings)

    def prepare(request, key):
        return train_on(request, request.remain, request.params, request.stats, key, **settings)

    return Method("finetune", prepare, settings, frozenset({"remain"}))
