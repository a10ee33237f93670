"""NPO and SimNPO for classifiers: ascent on the forget rows that is bounded from below."""

import jax
import jax.numpy as jnp

from clujax.unlearning.losses import cross_entropy, npo_loss, sim_npo_loss
from clujax.unlearning.method import Method
from clujax.unlearning.plans import check_numbers, train_pairs
from clujax.unlearning.request import forward


def npo(
    *,
    strength: float = 1.0,
    remain_weight: float = 1.0,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Negative preference optimisation: −(2/β) log σ(β(ℓ − ℓ_original)) on forget, plus cross-entropy on remain.

    β is `strength`. Bounded, unlike gradient ascent, which it becomes as β → 0.
    Source: Zhang et al. 2024. Cost: two gradients and one forward per step.
    """
    settings = dict(locals())

    def forgetting(request, losses, batch):
        logits, _ = request.classifier.apply(request.params, request.stats, batch["x"], train=False)
        return npo_loss(losses, jax.lax.stop_gradient(cross_entropy(logits, batch["y"])), strength)

    return _preference("npo", forgetting, settings, frozenset({"forget", "remain", "teacher"}))


def sim_npo(
    *,
    strength: float = 1.0,
    margin: float = 0.0,
    remain_weight: float = 1.0,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """SimNPO: −(2/β) log σ(β(ℓ − δ)) on forget, plus cross-entropy on remain; no reference network.

    β is `strength`, δ the `margin` in nats. Source: Fan et al. 2024. Cost: two gradients per step.
    """
    settings = dict(locals())

    def forgetting(request, losses, batch):
        return sim_npo_loss(losses, strength, margin)

    return _preference("sim_npo", forgetting, settings, frozenset({"forget", "remain"}))


def _preference(name, forgetting, settings, needs):
    check_numbers(settings, least={"remain_weight": 0})
    if not settings["strength"] > 0:
        raise ValueError(
            f"strength is {settings['strength']}; expected a positive number (gradient ascent is its limit)."
        )
    training = {key: settings[key] for key in ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay")}

    def prepare(request, key):
        def loss(params, stats, batch, key):
            forget_key, remain_key = jax.random.split(key)
            forget, stats = forward(request, params, stats, batch["forget"], forget_key, train=True)
            remain, stats = forward(request, params, stats, batch["remain"], remain_key, train=True)
            losses = cross_entropy(forget, batch["forget"]["y"])
            keeping = jnp.mean(cross_entropy(remain, batch["remain"]["y"]))
            total = jnp.mean(forgetting(request, losses, batch["forget"])) + settings["remain_weight"] * keeping
            return total, (stats, {"forget_loss": jnp.mean(losses), "remain_loss": keeping})

        return train_pairs(request, loss, key, **training)

    return Method(name, prepare, settings, needs)
