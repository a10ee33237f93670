"""Random label: learn wrong labels for the forget rows beside the true ones of the remaining rows."""

import math

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import any_labels, cross_entropy, wrong_labels
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.plans import check_choice, check_numbers, num_batches, train_on
from clujax.adaptation.request import compiled_step, forward, stream

LABELS = {"wrong": wrong_labels, "any": any_labels}


def random_label(
    *,
    labels: str = "wrong",
    redraw: bool = False,
    order: str = "shuffled",
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Cross-entropy on the forget rows with random labels and on the remaining rows with their own.

    Args:
      labels: "wrong" draws from the C − 1 other classes (Amnesiac, bad teacher, SSD), "any" from all C (SalUn's code).
      redraw: draw anew at each step rather than once.
      order: "shuffled", or "forget_first": in each pass all forget batches, then all remaining ones (SalUn on CIFAR-10).

    Cost: one gradient per step.
    """
    settings = dict(locals())
    check_random_labels(settings)

    def prepare(request, key):
        return relabelling_plan(request, key, **settings)

    return Method("random_label", prepare, settings)


def check_random_labels(settings):
    """Refuse settings that cannot be meant."""
    check_numbers(settings)
    check_choice("labels", settings["labels"], tuple(LABELS))
    check_choice("order", settings["order"], ("shuffled", "forget_first"))


def relabelling_plan(request, key, *, labels, redraw, order, epochs, batch_size, wrap=None, **optimizer):
    """The plan of `random_label`; `wrap(tx)` may wrap the optimizer."""
    label_key, stream_key = jax.random.split(key)
    draw = LABELS[labels]
    sides = []
    for rows, is_forget in ((request.forget, True), (request.remain, False)):
        own = jnp.asarray(rows["y"], jnp.int32)
        learnt = draw(label_key, own, request.num_classes) if is_forget else own
        sides.append({"x": jnp.asarray(rows["x"]), "y": learnt, "own": own, "forget": jnp.full(len(own), is_forget)})
    forget, remain = sides

    def loss(params, stats, batch, key):
        label_key, network_key = jax.random.split(key)
        wanted = batch["y"]
        if redraw:
            fresh = draw(label_key, batch["own"], request.num_classes)
            wanted = jnp.where(batch["forget"], fresh, batch["own"])
        logits, stats = forward(request, params, stats, batch, network_key, train=True)
        return jnp.mean(cross_entropy(logits, wanted)), (stats, {})

    if order == "shuffled":
        both = {name: jnp.concatenate([forget[name], remain[name]]) for name in forget}
        shared = {"epochs": epochs, "batch_size": batch_size, "loss": loss, "wrap": wrap} | optimizer
        return train_on(request, both, request.params, request.stats, stream_key, **shared)
    forget_key, remain_key = jax.random.split(stream_key)
    first, second = num_batches(forget, batch_size), num_batches(remain, batch_size)
    num_steps = math.ceil(epochs * (first + second))
    tx = sgd(num_steps=num_steps, **optimizer)
    tx = wrap(tx) if wrap else tx
    step = compiled_step(request, loss, tx)
    forget_at = stream(request, forget, batch_size, forget_key)
    remain_at = stream(request, remain, batch_size, remain_key)

    def work(s):
        epoch, place = divmod(s, first + second)
        if place < first:
            return [("forget", forget_at(epoch * first + place))]
        return [("remain", remain_at(epoch * second + place - first))]

    return Plan(request.params, request.stats, tx, {"forget": step, "remain": step}, work, num_steps)
