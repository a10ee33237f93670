"""Random label: teach a wrong label for each forget row while training on the rest."""

import jax
import jax.numpy as jnp

from clujax.unlearning.losses import wrong_labels
from clujax.unlearning.method import Method
from clujax.unlearning.methods.finetune import train_on


def random_label(
    *,
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Cross-entropy on the forget rows with wrong labels, drawn once, shuffled together with the remaining rows."""
    settings = dict(locals())

    def prepare(request, key):
        label_key, stream_key = jax.random.split(key)
        rows = relabelled(request, label_key)
        return train_on(request, rows, request.params, request.stats, stream_key, **settings)

    return Method("random_label", prepare, settings)


def relabelled(request, key):
    """All rows, the forget ones under a wrong label drawn uniformly from the C − 1 others."""
    labels = wrong_labels(key, jnp.asarray(request.forget["y"]), request.num_classes)
    return {
        "x": jnp.concatenate([jnp.asarray(request.forget["x"]), jnp.asarray(request.remain["x"])]),
        "y": jnp.concatenate([labels, jnp.asarray(request.remain["y"])]),
    }
