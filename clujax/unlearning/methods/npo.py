"""NPO and SimNPO for classifiers: ascent on the forget rows that is bounded from below."""

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import augmented, cross_entropy, npo_loss, sim_npo_loss
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, network_only, teach, train_pairs, with_teachers
from clujax.adaptation.request import forward


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

    β is `strength`. Bounded, unlike gradient ascent, which it becomes as β → 0. The reference, ℓ_original, is taken in eval
    mode on the same augmented inputs.
    Source: Zhang et al. 2024. Cost: two gradients and one forward per step; memory: a second copy of the network.
    """
    settings = dict(locals())

    def forgetting(losses, reference):
        return npo_loss(losses, reference, strength)

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

    def forgetting(losses, reference):
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
            augment_key, forget_key, remain_key = jax.random.split(key, 3)
            shown = augmented(request, batch["forget"], augment_key)
            reference = None
            if "teacher" in needs:
                reference = cross_entropy(teach(request, stats["teacher"], shown["x"]), shown["y"])
            bare = request._replace(augment=None)
            forget, network = forward(bare, params, stats["network"], shown, forget_key, train=True)
            remain, network = forward(request, params, network, batch["remain"], remain_key, train=True)
            losses = cross_entropy(forget, shown["y"])
            keeping = jnp.mean(cross_entropy(remain, batch["remain"]["y"]))
            total = jnp.mean(forgetting(losses, reference)) + settings["remain_weight"] * keeping
            return total, (stats | {"network": network}, {"forget_loss": jnp.mean(losses), "remain_loss": keeping})

        teachers = {"teacher": (request.params, request.stats)} if "teacher" in needs else {}
        plan = train_pairs(request, loss, key, **training)
        return plan._replace(stats=with_teachers(request, **teachers), finish=network_only)

    return Method(name, prepare, settings, needs)
