"""The optimizer of the published experiments: SGD with momentum and coupled weight decay, cosine to zero."""

import optax


def sgd(learning_rate: float, num_steps: int, *, momentum: float = 0.9, weight_decay: float = 5e-4):
    """PyTorch's SGD as an optax chain: decay joins the gradient, momentum, then the rate of the step."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(learning_rate, max(num_steps, 1))),
    )
