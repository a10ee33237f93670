"""Bad teacher: imitate a random network on the forget rows and the original on the rest."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from clujax.adaptation.losses import augmented, distillation
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.plans import check_numbers, network_only, num_batches, teach, with_teachers
from clujax.adaptation.request import compiled_step, forward, stream


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

    Teachers are in eval mode and see the student's augmented inputs.

    Args:
      mean_over_classes: divide the loss by C, as published: the effective rate is then 1/C of a per-row mean.
      remain_fraction: share of the remaining rows that is used, drawn once (published: 0.3).
      temperature: of both teachers and the student; the loss is not multiplied by its square, as published.

    Source: Chundawat et al. 2023. Cost: one gradient and two forwards per step; memory: three copies of the network.
    """
    settings = dict(locals())
    check_numbers(settings)
    if not 0 < remain_fraction <= 1:
        raise ValueError(f"remain_fraction is {remain_fraction}; expected a share in (0, 1].")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number.")

    def prepare(request, key):
        init_key, stream_key, subset_key = jax.random.split(key, 3)
        untrained = request.classifier.init(init_key, jnp.asarray(request.remain["x"][:1]))
        count = max(1, round(remain_fraction * len(request.remain["y"])))
        chosen = np.asarray(jax.random.permutation(subset_key, len(request.remain["y"])))[:count]
        sides = {"forget": request.forget, "remain": {n: np.asarray(request.remain[n])[chosen] for n in "xy"}}
        rows = {name: np.concatenate([np.asarray(side[name]) for side in sides.values()]) for name in "xy"}
        rows["forget"] = np.arange(len(rows["y"])) < len(request.forget["y"])
        num_steps = math.ceil(epochs * num_batches(rows, batch_size))
        tx = sgd(learning_rate, num_steps, momentum=momentum, weight_decay=weight_decay)
        batch_at = stream(request, rows, batch_size, stream_key)
        scale = temperature**2 * (request.num_classes if mean_over_classes else 1)

        def loss(params, stats, batch, key):
            augment_key, network_key = jax.random.split(key)
            shown = augmented(request, batch, augment_key)
            good, bad = (teach(request, stats[name], shown["x"]) for name in ("good", "bad"))
            target = jnp.where(batch["forget"][:, None], bad, good)
            bare = request._replace(augment=None)
            logits, network = forward(bare, params, stats["network"], shown, network_key, train=True)
            return jnp.mean(distillation(logits, target, temperature)) / scale, (stats | {"network": network}, {})

        return Plan(
            request.params,
            with_teachers(request, good=(request.params, request.stats), bad=untrained),
            tx,
            {"both": compiled_step(request, loss, tx)},
            lambda s: [("both", batch_at(s))],
            num_steps,
            finish=network_only,
        )

    return Method("bad_teacher", prepare, settings, frozenset({"forget", "remain", "init", "teacher"}))
