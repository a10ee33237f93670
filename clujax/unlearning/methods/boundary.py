"""Boundary unlearning: move the forgotten classes over their nearest boundary, or into a class of their own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, float_inputs, train_on
from clujax.models import Classifier


def boundary_shrink(
    *,
    radius: float = 0.1,
    epochs: float = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    force: bool = False,
) -> Method:
    """Learn for each forget row the class that an adversarial step of `radius` takes it to; no remaining rows are used.

    Args:
      radius: of the step along the sign of the input gradient, as a share of the inputs' range. A row whose step crosses no
        boundary keeps its label; `facts["relabelled"]` is the share of the others.
      force: carry on with a request that is not of whole classes; by default that is an error.

    The network is in eval mode: BatchNorm averages stay as they are. Published rate: 1e-5.
    Source: Chen et al. 2023. Cost: one gradient for the labels, then one per step.
    """
    settings = dict(locals())
    training = _checked(settings, "radius")

    def prepare(request, key):
        x, step = float_inputs(request, request.forget["x"])
        y = jnp.asarray(request.forget["y"], jnp.int32)
        found = boundary_labels(request.classifier, request.params, request.stats, x, y, radius, step)
        rows = {"x": request.forget["x"], "y": found}
        plan = train_on(request, rows, request.params, request.stats, key, loss=_frozen_loss(request), **training)
        return plan._replace(facts={"relabelled": float(jnp.mean(found != y))})

    return Method("boundary_shrink", prepare, settings, frozenset({"forget"} | (set() if force else {"classes"})))


def boundary_expand(
    *,
    epochs: float = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    force: bool = False,
) -> Method:
    """Learn a class of its own for the forget rows, on an extra logit that is dropped at the end.

    `force` as for `boundary_shrink`. BatchNorm averages stay as they are. Source: Chen et al. 2023.
    Cost: one gradient per step.
    """
    settings = dict(locals())
    training = _checked(settings)

    def prepare(request, key):
        head_key, stream_key = jax.random.split(key)
        width = jax.eval_shape(
            request.classifier.features, request.params, request.stats, jnp.asarray(request.forget["x"][:1])
        ).shape[-1]
        bound = width**-0.5
        extra = {"kernel": jax.random.uniform(head_key, (width,), minval=-bound, maxval=bound), "bias": jnp.zeros(())}

        def loss(params, stats, batch, key):
            own, shadow = params["network"], params["extra"]
            logits, _ = request.classifier.apply(own, stats, batch["x"], train=False)
            features = request.classifier.features(own, stats, batch["x"])
            added = features @ shadow["kernel"] + shadow["bias"]
            wide = jnp.concatenate([logits, added[:, None]], -1)
            return jnp.mean(cross_entropy(wide, jnp.full(len(wide), request.num_classes))), (stats, {})

        rows = {name: request.forget[name] for name in "xy"}
        start = {"network": request.params, "extra": extra}
        plan = train_on(request, rows, start, request.stats, stream_key, loss=loss, **training)
        return plan._replace(finish=lambda params, stats: (params["network"], stats))

    needs = {"forget", "features"} | (set() if force else {"classes"})
    return Method("boundary_expand", prepare, settings, frozenset(needs))


def boundary_labels(
    classifier: Classifier,
    params: PyTree,
    stats: PyTree,
    x: Float[Array, "n ..."],
    y: Int[Array, " n"],
    radius: float,
    grey: float | None = None,
) -> Int[Array, " n"]:
    """The network's own label of each row after a step of `radius` times the inputs' range along its gradient's sign.

    Args:
      grey: size of a grey level of pixels, whose range is 255 of them and to which the step is rounded, as published; None
        for other inputs, whose range is that of `x`.

    Cost: one gradient and one forward per row.
    """
    low, high = (jnp.min(x), jnp.max(x)) if grey is None else (0.0, 255 * grey)

    @jax.jit
    def moved_label(params, stats, x, y):
        predict = lambda x: classifier.apply(params, stats, x, train=False)[0]
        climb = jax.grad(lambda x: jnp.sum(cross_entropy(predict(x), y)))(x)
        moved = jnp.clip(x + radius * (high - low) * jnp.sign(climb), low, high)
        return predict(moved if grey is None else jnp.round(moved / grey) * grey).argmax(-1).astype(y.dtype)

    parts = [moved_label(params, stats, x[i : i + 500], y[i : i + 500]) for i in range(0, len(y), 500)]
    return jnp.concatenate(parts)


def _frozen_loss(request):
    """Cross-entropy in eval mode: the forget rows alone must not move BatchNorm's averages."""

    def loss(params, stats, batch, key):
        logits, _ = request.classifier.apply(params, stats, batch["x"], train=False)
        return jnp.mean(cross_entropy(logits, batch["y"])), (stats, {})

    return loss


def _checked(settings, *own):
    check_numbers(settings, least=dict.fromkeys(own, 0))
    return {name: value for name, value in settings.items() if name not in (*own, "force")}
