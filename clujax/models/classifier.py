"""A classifier as a record of pure functions, for stateless and BatchNorm networks alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Classifier(NamedTuple):
    """A network as pure functions; `stats` holds every collection that is not trained, `{}` when there is none.

    Attributes:
      init: `init(key, inputs) -> (params, stats)`.
      apply: `apply(params, stats, inputs, *, train=False, key=None) -> (logits [B, C] float32, new_stats)`.
      features: `features(params, stats, inputs) -> [B, F]`, what the last linear layer reads, in eval mode.
      head: path of the last linear layer in `params`.
    """

    init: Callable[[PRNGKeyArray, Any], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Float[Array, "B C"], PyTree]]
    features: Callable[[PyTree, PyTree, Any], Float[Array, "B F"]]
    head: tuple[str, ...] = ("head",)


def from_linen(module: nn.Module, head: tuple[str, ...] = ("head",)) -> Classifier:
    """Wrap a linen module called as `module(x, train)`.

    Randomness (dropout) comes from the key given to `apply`, under the stream `dropout`. Features come from the module's
    method `features(x, train)` if it has one, and are caught on their way into the layer at `head` if not.

    Args:
      module: the network; its logits may have any floating dtype and leave as float32.
      head: path of the last linear layer, which is also its path in `params`.

    Raises:
      ValueError: features are asked of a module that has neither the method nor a layer at `head`.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         x = nn.relu(nn.Dense(5)(x))
      ...         return nn.Dense(3, name="head")(nn.Dropout(0.1, deterministic=not train)(x))
      >>> net = from_linen(Net())
      >>> params, stats = net.init(jax.random.key(0), jnp.ones((2, 4)))
      >>> logits, stats = net.apply(params, stats, jnp.ones((2, 4)), train=True, key=jax.random.key(1))
      >>> logits.shape, net.features(params, stats, jnp.ones((2, 4))).shape
      ((2, 3), (2, 5))
    """

    def init(key, inputs):
        variables = dict(module.init(key, inputs, train=False))
        return variables.pop("params", {}), variables

    def apply(params, stats, inputs, *, train=False, key=None):
        variables = {"params": params} | stats
        rngs = None if key is None else {"dropout": key}
        if train and stats:
            logits, stats = module.apply(variables, inputs, train=True, rngs=rngs, mutable=list(stats))
        else:
            logits = module.apply(variables, inputs, train=train, rngs=rngs)
        return logits.astype(jnp.float32), stats

    def features(params, stats, inputs):
        variables = {"params": params} | stats
        if hasattr(module, "features"):
            return module.apply(variables, inputs, train=False, method="features").astype(jnp.float32)
        caught = []

        def catch(call, args, kwargs, context):
            if context.module.path == tuple(head) and context.method_name == "__call__":
                caught.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(catch):
            module.apply(variables, inputs, train=False)
        if not caught:
            raise ValueError(
                f"head is {head}; expected the path of a layer of {type(module).__name__}: {list(params)}."
            )
        return caught[-1].astype(jnp.float32)

    return Classifier(init, apply, features, head)


def from_apply(apply_fn: Callable, features: Callable | None = None, head: tuple[str, ...] = ()) -> Classifier:
    """Wrap any `apply_fn(params, inputs) -> logits` without state; `init` is then not available."""

    def init(key, inputs):
        raise ValueError("this classifier was made by from_apply and has no init; pass trained params")

    def apply(params, stats, inputs, *, train=False, key=None):
        return apply_fn(params, inputs).astype(jnp.float32), stats

    def no_features(params, stats, inputs):
        raise ValueError("this classifier was made by from_apply and has no features; pass features=.")

    return Classifier(init, apply, features or no_features, head)


def with_inputs(classifier: Classifier, prepare: Callable) -> Classifier:
    """The same classifier behind `prepare(inputs)`, for example a standardisation of raw pixels."""

    def init(key, inputs):
        return classifier.init(key, prepare(inputs))

    def apply(params, stats, inputs, **options):
        return classifier.apply(params, stats, prepare(inputs), **options)

    def features(params, stats, inputs):
        return classifier.features(params, stats, prepare(inputs))

    return Classifier(init, apply, features, classifier.head)


def frozen(classifier: Classifier, stats: PyTree) -> Classifier:
    """The same classifier with its statistics held: it reads these in training too, without dropout, and has none itself.

    Fine-tuning on few rows keeps the averages of BatchNorm layers that were measured on many.
    """

    def init(key, inputs):
        return classifier.init(key, inputs)[0], {}

    def apply(params, unused, inputs, *, train=False, key=None):
        return classifier.apply(params, stats, inputs, train=False)[0], {}

    def features(params, unused, inputs):
        return classifier.features(params, stats, inputs)

    return Classifier(init, apply, features, classifier.head)


def check_images(inputs: Any) -> None:
    """Refuse inputs that are not a batch of images, at trace time.

    Raises:
      ValueError: not `[B, H, W, C]`.
    """
    if inputs.ndim != 4:
        raise ValueError(f"inputs has shape {inputs.shape}; expected a batch of images [B, H, W, C].")
