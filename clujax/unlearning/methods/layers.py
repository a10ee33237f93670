"""CF-k and EU-k: train the last layers only, from where they are or from scratch."""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.adaptation.losses import descend
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_numbers, train_on
from clujax.errors import RequestError
from clujax.transforms import mask_updates


def cf_k(
    *,
    k: int = 1,
    order: Sequence[Sequence[str]] | None = None,
    epochs: float = 10,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Catastrophically forget the last k layers: finetune them on the remaining rows, all others as they are to the bit.

    What frozen layers know stays; their BatchNorm averages too, though in training they normalise by the batch, like the
    others. `order` as for `last_layers`.
    Source: Goel et al. 2022. Cost: one gradient per step.
    """
    settings = dict(locals())
    _check(settings)
    return Method(
        "cf_k", lambda request, key: _plan(request, key, settings, fresh=False), settings, frozenset({"remain"})
    )


def eu_k(
    *,
    k: int = 1,
    order: Sequence[Sequence[str]] | None = None,
    epochs: float = 30,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Exactly unlearn the last k layers: initialise them anew and train them on the remaining rows by the original recipe.

    Source: Goel et al. 2022. Cost: one gradient per step.
    """
    settings = dict(locals())
    _check(settings)
    prepare = lambda request, key: _plan(request, key, settings, fresh=True)
    return Method("eu_k", prepare, settings, frozenset({"remain", "init"}))


def last_layers(params: PyTree, k: int, head: str, order: Sequence[Sequence[str]] | None = None) -> frozenset[str]:
    """Names of the top-level modules that make up the last k layers.

    Without `order`, modules that share a trailing number are one layer (convs_2 with norms_2), counted upwards, those
    without a number come first, and the head is the last layer.

    Args:
      params: a mapping of modules.
      k: how many layers.
      head: name of the last module.
      order: layers from first to last, each a list of module names, where that guess is wrong.

    Raises:
      RequestError: parameters that are no mapping, or fewer layers than k.

    Example:
      >>> params = dict.fromkeys(["head", "stem", "convs_0", "norms_0", "convs_10", "convs_9"], 0)
      >>> sorted(last_layers(params, 2, "head"))
      ['convs_10', 'head']
    """
    if not isinstance(params, Mapping):
        raise RequestError("params is not a mapping of modules; layers cannot be told apart.")
    if order is None:
        numbered: dict[int, list[str]] = {}
        for name in params:
            found = re.search(r"(\d+)$", name)
            place = len(params) + max(map(_number, params)) if name == head else int(found[1]) if found else -1
            numbered.setdefault(place, []).append(name)
        order = [numbered[place] for place in sorted(numbered)]
    strange = [name for names in order for name in names if name not in params]
    if strange:
        raise RequestError(f"order names {strange}; the modules are {list(params)}.")
    if not 1 <= k <= len(order):
        raise RequestError(f"k is {k}; expected 1 to {len(order)} layers: {[list(names) for names in order]}.")
    return frozenset(name for names in order[-k:] for name in names)


def _number(name):
    found = re.search(r"(\d+)$", name)
    return int(found[1]) if found else 0


def _check(settings):
    check_numbers(settings, least={"k": 1})


def _plan(request, key, settings, *, fresh):
    training = {name: value for name, value in settings.items() if name not in ("k", "order")}
    head = (request.classifier.head or ("head",))[0]
    moving = last_layers(request.params, settings["k"], head, settings["order"])
    init_key, stream_key = jax.random.split(key)
    params, stats = dict(request.params), request.stats
    if fresh:
        new, new_stats = request.classifier.init(init_key, jnp.asarray(request.remain["x"][:1]))
        params |= {name: new[name] for name in moving}
        stats = _moved(stats, new_stats, moving)
    mask = {
        name: jax.tree.map(lambda leaf, name=name: jnp.full(leaf.shape, name in moving), part)
        for name, part in request.params.items()
    }
    descent = descend(request)

    def loss(params, stats, batch, key):
        value, (new_stats, metrics) = descent(params, stats, batch, key)
        return value, (_moved(stats, new_stats, moving), metrics)

    wrap = lambda tx: mask_updates(mask, inner=tx, where="update", restore=True)
    return train_on(request, request.remain, params, stats, stream_key, loss=loss, wrap=wrap, **training)


def _moved(stats: Mapping, new: Mapping, moving: frozenset) -> dict:
    """Stats of the moving modules from `new`, all others as they were."""
    return {
        kind: {name: new[kind][name] if name in moving else part for name, part in parts.items()}
        for kind, parts in stats.items()
    }
