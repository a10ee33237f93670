"""Bad teacher: imitate a random network on the forget rows and the original on the rest."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from clujax.unlearning.losses import distillation
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.request import compiled_step, forward, stream


def bad_teacher(
    *,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Distil from an untrained teacher on forget rows and from the original on remaining rows, shuffled together.

    The loss is the mean over rows and classes, as published, so the effective rate is 1/C of a per-row mean.
    Source: Chundawat et al. 2023. Cost: one gradient and two forwards per step.
    """
    settings = dict(locals())

    def prepare(request, key):
        init_key, stream_key = jax.random.split(key)
        bad_params, bad_stats = request.classifier.init(init_key, request.remain["x"][:1])
        rows = {
            "x": jnp.concatenate([jnp.asarray(request.forget["x"]), jnp.asarray(request.remain["x"])]),
            "forget": np.repeat([1.0, 0.0], [len(request.forget["y"]), len(request.remain["y"])]).astype(np.float32),
        }
        num_steps = math.ceil(epochs * math.ceil(len(rows["forget"]) / batch_size))
        tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
        batch_at = stream(request, rows, batch_size, stream_key)

        def loss(params, stats, batch, key):
            good, _ = request.classifier.apply(request.params, request.stats, batch["x"], train=False)
            bad, _ = request.classifier.apply(bad_params, bad_stats, batch["x"], train=False)
            target = jnp.where(batch["forget"][:, None] > 0, bad, good)
            logits, stats = forward(request, params, stats, batch, key, train=True)
            return jnp.mean(distillation(logits, target)) / request.num_classes, (stats, {})

        steps = {"both": compiled_step(request, loss, tx)}
        return Plan(request.params, request.stats, tx, steps, lambda s: [("both", batch_at(s))], num_steps)

    return Method("bad_teacher", prepare, settings, frozenset({"forget", "remain", "init", "teacher"}))
