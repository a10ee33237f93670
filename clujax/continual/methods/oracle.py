"""Oracle: the exact answer to a request, a fresh network trained on the rows that are to be known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.losses import descend
from clujax.adaptation.method import Plan
from clujax.adaptation.plans import check_numbers
from clujax.adaptation.request import compiled_step
from clujax.adaptation.schedules import cosine
from clujax.continual.head import as_open
from clujax.continual.method import Method, Phase, Rules


def oracle(
    *,
    epochs: float = 30,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Train a fresh initialisation, drawn for the request, on remain ∪ learn by the original recipe.

    The reference that every other method is read against. N = epochs · ⌈n/B⌉ steps, whose rate falls as a cosine to zero;
    the rate of a step comes with its batch, so that requests of any length share one program. A forget-only request trains
    on the rows that remain; rows to forget are never used, nor is anything of the network before. With no rows left the
    answer is the initialisation.

    Cost: one gradient of a batch per step.
    """
    settings = dict(locals())
    check_numbers(settings)

    def build(scene):
        init = jax.jit(scene.classifier.init)
        decay = optax.add_decayed_weights(weight_decay)
        tx = optax.chain(decay, optax.trace(momentum), scale_by_given_rate())
        inner = compiled_step(scene.bare, descend(scene.bare), tx)
        train = lambda state, work: inner(state, work["rows"], rate=work["rate"])

        def phases(learner, change):
            rows = np.union1d(change.remain, change.learn)
            num_steps = math.ceil(epochs * math.ceil(len(rows) / batch_size))

            def prepare(learner, key):
                init_key, batch_key = jax.random.split(key)
                params, stats = init(init_key, jnp.zeros_like(scene.columns["x"][:1]))
                stats = as_open(stats, learner.stats)
                batch_at = scene.batches(rows, batch_size, batch_key) if num_steps else None
                rate = lambda s: learning_rate * cosine(s / num_steps)
                work = lambda s: [("train", {"rows": batch_at(s), "rate": rate(s)})]
                return Plan(params, stats, tx, {"train": train}, work, num_steps)

            return [Phase("retrain", prepare)]

        return Rules(phases)

    return Method("oracle", settings, build, replay="remain")


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    """Multiply updates by −`rate`, an extra argument of `update`."""

    def update(updates, state, params=None, *, rate, **extra):
        return jax.tree.map(lambda leaf: (-rate * leaf).astype(leaf.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
