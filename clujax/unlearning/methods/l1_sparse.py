"""l1-sparse: finetune on the remaining rows under a penalty that makes weights small."""

import jax.numpy as jnp

from clujax.adaptation.losses import cross_entropy, l1_penalty
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, num_batches, train_on
from clujax.adaptation.request import forward


def l1_sparse(
    *,
    strength: float = 5e-4,
    free: float = 0.0,
    epochs: float = 10,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(remain) + α_t ‖θ‖₁, α_t falling from α to 0 over the passes before the last `free` ones.

    α_t = α (1 − e/(E − free)) in pass e = 0, 1, …, and 0 from pass E − free on; α is `strength`.
    Source: Jia et al. 2023, "Model Sparsity Can Simplify Machine Unlearning". Cost: one gradient per step.
    """
    settings = dict(locals())
    check_numbers(settings, least={"strength": 0, "free": 0})
    if not free < epochs:
        raise ValueError(f"free is {free} of {epochs} epochs; expected fewer, or no pass is penalised.")
    training = {name: value for name, value in settings.items() if name not in ("strength", "free")}

    def loss_of(request):
        def loss(params, stats, batch, key):
            logits, stats = forward(request, params, stats, batch, key, train=True)
            fit = jnp.mean(cross_entropy(logits, batch["y"]))
            return fit + l1_penalty(params, batch["strength"]), (stats, {"remain_loss": fit})

        return loss

    def prepare(request, key):
        per_epoch = num_batches(request.remain, batch_size)
        return train_on(
            request,
            request.remain,
            request.params,
            request.stats,
            key,
            loss=loss_of(request),
            annotate=lambda s: {"strength": falling(strength, s // per_epoch, epochs - free)},
            **training,
        )

    return Method("l1_sparse", prepare, settings, frozenset({"remain"}))


def falling(strength: float, epoch: int, until: float) -> float:
    """α (1 − epoch/until), 0 from `until` on.

    Example:
      >>> [falling(1.0, epoch, 4.0) for epoch in (0, 1, 3, 4, 9)]
      [1.0, 0.75, 0.25, 0.0, 0.0]
    """
    return strength * max(0.0, 1 - epoch / until)
