"""NegGrad+: descend on the remaining rows and ascend on the forget rows in one step."""

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, train_pairs
from clujax.adaptation.request import forward


def neg_grad_plus(
    *,
    keep: float = 0.95,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise α CE(remain) − (1 − α) CE(forget) with α = `keep`; a pass is one over the remaining rows.

    The ascent has no bound: with (1 − α) times the rate too large it diverges, and a run that turns non-finite stops.
    Published: α = 0.9999 at rate 0.01 (SCRUB's notebook), 0.9 at 5e-4 (RULI).
    Source: Kurmanji et al. 2023. Cost: two gradients per step.
    """
    settings = dict(locals())
    check_numbers(settings)
    if not 0 <= keep <= 1:
        raise ValueError(f"keep is {keep}; expected a weight in [0, 1].")
    training = {name: value for name, value in settings.items() if name != "keep"}

    def prepare(request, key):
        def loss(params, stats, batch, key):
            forget_key, remain_key = jax.random.split(key)
            forget, stats = forward(request, params, stats, batch["forget"], forget_key, train=True)
            remain, stats = forward(request, params, stats, batch["remain"], remain_key, train=True)
            up = jnp.mean(cross_entropy(forget, batch["forget"]["y"]))
            down = jnp.mean(cross_entropy(remain, batch["remain"]["y"]))
            return keep * down - (1 - keep) * up, (stats, {"forget_loss": up, "remain_loss": down})

        return train_pairs(request, loss, key, **training)

    return Method("neg_grad_plus", prepare, settings)
