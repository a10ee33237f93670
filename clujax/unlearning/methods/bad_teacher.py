"""Bad teacher: imitate a random network on the forget rows and the original on the rest."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from clujax.unlearning.losses import distillation
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.plans import check_numbers
from clujax.unlearning.request import compiled_step, forward, stream


def bad_teacher(
    *,
    mean_over_classes: bool = True,
    remain_fraction: float = 1.0,
    temperature: float = 1.0,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Distil from an untrained teacher on forget rows and from the original on remaining rows, shuffled together.

    Args:
      mean_over_classes: divide the loss by C, as published: the effective rate is then 1/C of a per-row mean.
      remain_fraction: share of the remaining rows that is used, drawn once (published: 0.3).
      temperature: of both teachers and the student.

    Source: Chundawat et al. 2023. Cost: one gradient and two forwards per step.
    """
    settings = dict(locals())
    check_numbers(settings)
    if not 0 < remain_fraction <= 1:
        raise ValueError(f"remain_fraction is {remain_fraction}; expected a share in (0, 1].")

    def prepare(request, key):
        init_key, stream_key, subset_key = jax.random.split(key, 3)
        bad_params, bad_stats = request.classifier.init(init_key, request.remain["x"][:1])
        count = max(1, round(remain_fraction * len(request.remain["y"])))
        chosen = np.asarray(jax.random.permutation(subset_key, len(request.remain["y"])))[:count]
        rows = {
            "x": jnp.concatenate(
                [jnp.asarray(request.forget["x"]), jnp.asarray(np.asarray(request.remain["x"])[chosen])]
            ),
            "forget": np.repeat([1.0, 0.0], [len(request.forget["y"]), count]).astype(np.float32),
        }
        num_steps = math.ceil(epochs * math.ceil(len(rows["forget"]) / batch_size))
        tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
        batch_at = stream(request, rows, batch_size, stream_key)

        def loss(params, stats, batch, key):
            good, _ = request.classifier.apply(request.params, request.stats, batch["x"], train=False)
            bad, _ = request.classifier.apply(bad_params, bad_stats, batch["x"], train=False)
            target = jnp.where(batch["forget"][:, None] > 0, bad, good)
            logits, stats = forward(request, params, stats, batch, key, train=True)
            share = request.num_classes if mean_over_classes else 1
            return jnp.mean(distillation(logits, target, temperature)) / share, (stats, {})

        steps = {"both": compiled_step(request, loss, tx)}
        return Plan(request.params, request.stats, tx, steps, lambda s: [("both", batch_at(s))], num_steps)

    return Method("bad_teacher", prepare, settings, frozenset({"forget", "remain", "init", "teacher"}))
