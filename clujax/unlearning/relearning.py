"""Relearn time: how quickly the forgotten rows come back. What was hidden returns at once, what is gone takes training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.losses import cross_entropy, descend
from clujax.adaptation.request import Request, stream
from clujax.data import padded
from clujax.errors import RequestError
from clujax.training import init_state, make_train_step


class Relearning(NamedTuple):
    """Steps until the forget loss was back (`max_steps` + 1 when it was not), and that loss before each step, in nats."""

    steps: int
    losses: np.ndarray


def relearn_time(
    request: Request,
    params: PyTree,
    stats: PyTree,
    *,
    key: PRNGKeyArray,
    threshold: float | None = None,
    tx: optax.GradientTransformation | None = None,
    batch_size: int = 128,
    max_steps: int = 200,
    margin: float = 0.05,
) -> Relearning:
    """Finetune on the forget rows until their mean loss is at most the threshold.

    Args:
      request: its forget rows are relearned; its params give the default threshold.
      params, stats: the network after unlearning.
      threshold: in nats; by default the original network's loss on the forget rows, plus `margin`.
      tx: by default SGD at 0.01 with momentum 0.9.
      max_steps: give up after this many.

    Raises:
      RequestError: a threshold that is not a number above 0, or no step allowed.

    Cost: one gradient and one forward pass over the forget rows per step. Read beside the retrained network's.
    Source: the relearn-time test of Kurmanji et al. 2023.
    """
    x, y = request.forget["x"], request.forget["y"]
    if threshold is None:
        threshold = _loss(request, request.params, request.stats, x, y) + margin
    if not threshold > 0 or max_steps < 1:
        raise RequestError(
            f"threshold is {threshold}, max_steps {max_steps}; expected a loss above 0 and at least one step."
        )
    tx = tx or optax.sgd(0.01, 0.9)
    step = make_train_step(descend(request), tx, mesh=request.mesh, rules=request.rules)
    start = jax.tree.map(jnp.array, (params, stats))  # the step takes over its buffers
    state = init_state(*start, tx, key)
    batch_at = stream(request, request.forget, batch_size, key)
    losses = []
    for s in range(max_steps + 1):
        losses.append(_loss(request, state.params, state.stats, x, y))
        if losses[-1] <= threshold:
            return Relearning(s, np.array(losses))
        state, _ = step(state, batch_at(s))
    return Relearning(max_steps + 1, np.array(losses))


def _loss(request, params, stats, x, y):
    """Mean loss of all rows in eval mode."""
    total = 0.0
    for batch in padded({"x": x, "y": np.asarray(y)}, min(500, len(y))):
        total += float(_batch_loss(request.classifier.apply, params, stats, batch))
    return total / len(y)


@jax.jit(static_argnums=0)
def _batch_loss(apply, params, stats, batch):
    logits, _ = apply(params, stats, batch["x"], train=False)
    return jnp.sum(batch["weight"] * cross_entropy(logits, batch["y"]))
