"""A forget request: a trained network, the rows to forget and the rows to keep."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from clujax.data import feed, on_disk, resident
from clujax.errors import RequestError
from clujax.models import Classifier
from clujax.training import batch_sharding, make_train_step

RESIDENT_BYTES = 2**31  # of one stream's columns: what is held in each device's memory for the whole run


class Request(NamedTuple):
    """Everything a method may use to carry out one forget request.

    Attributes:
      classifier: the network, as pure functions.
      params: its trained parameters.
      stats: its other state (BatchNorm averages), `{}` when there is none.
      forget: rows to forget, `{"x": [n_f, ...], "y": [n_f]}`.
      remain: rows to keep, same form; None when they are gone, which few methods allow.
      num_classes: number of classes C; labels are in [0, C).
      augment: training augmentation `augment(key, x) -> x`, or None.
      initial: the parameters before training θ₀, for methods whose exactness rests on the starting point, or None.
      validation: rows that were never trained on and are not the test rows, same form as forget, or None.
      mesh, rules: where arrays lie when there is more than one device; see `clujax.training.shardings`.
    """

    classifier: Classifier
    params: PyTree
    stats: PyTree
    forget: Mapping[str, Any]
    remain: Mapping[str, Any] | None
    num_classes: int
    augment: Callable | None = None
    mesh: Any = None
    rules: Any = None
    initial: PyTree | None = None
    validation: Mapping[str, Any] | None = None


NEEDS = {
    "forget": "rows to forget",
    "remain": "rows to keep",
    "validation": "rows that the network never saw and that are not the test rows: pass Request(validation=...)",
    "initial": "the parameters before training: store them when you train and pass Request(initial=...)",
    "init": "a classifier that can make a fresh network: from_apply has no init, wrap the module instead",
    "features": "a classifier with features and a linear head: from_linen, or from_apply(features=..., head=...)",
    "teacher": "the original network, which every request has",
    "classes": "a forget set of whole classes: no remaining row may carry a forgotten label",
}


def check_request(request: Request, needs: Collection[str] = ("forget", "remain"), method: str = "this method") -> None:
    """Refuse a request that cannot be carried out, before any work.

    Args:
      request: to check.
      needs: what the method needs of it, keys of `NEEDS`; the rows and parameters that are there are checked always.
      method: its name, for the message.

    Raises:
      RequestError: naming the part, what came and what was expected.
    """
    for need in needs:
        if not _provided(request, need):
            raise RequestError(f"{method} needs {need!r}, which this request lacks: {NEEDS[need]}.")
    for name in ("forget", "remain", "validation"):
        rows = getattr(request, name)
        if rows is None:
            continue
        missing = {"x", "y"} - set(rows)
        if missing:
            raise RequestError(f"{name} must hold 'x' and 'y'; missing: {', '.join(sorted(missing))}.")
        x, y = rows["x"], np.asarray(rows["y"])
        if len(x) != len(y):
            raise RequestError(f"{name} has {len(x)} inputs but {len(y)} labels; give one label per row.")
        if len(y) == 0:
            raise RequestError(f"{name} has no rows; a request needs at least one row of {name}.")
        if not np.issubdtype(y.dtype, np.integer):
            raise RequestError(f"{name}['y'] has dtype {y.dtype}; expected integer class labels.")
        if y.min() < 0 or y.max() >= request.num_classes:
            raise RequestError(
                f"{name}['y'] spans [{y.min()}, {y.max()}]; expected labels in [0, {request.num_classes})."
                " Check num_classes."
            )
    if "index" in request.forget and "index" in (request.remain or ()):
        both = np.intersect1d(np.asarray(request.forget["index"]), np.asarray(request.remain["index"]))
        if both.size:
            raise RequestError(
                f"{both.size} rows are in both forget and remain (first: {both[:5].tolist()}); remove them from one."
            )
    finite = jax.tree.map(lambda leaf: bool(jnp.all(jnp.isfinite(leaf))), request.params)
    for path, ok in jax.tree_util.tree_leaves_with_path(finite):
        if not ok:
            raise RequestError(f"params{jax.tree_util.keystr(path)} has NaN or Inf; start from a finite network.")


def _provided(request: Request, need: str) -> bool:
    if need in ("forget", "remain", "validation", "initial"):
        return getattr(request, need) is not None
    inputs = jax.eval_shape(lambda: jnp.asarray(request.forget["x"][:1]))
    try:
        if need == "init":
            jax.eval_shape(request.classifier.init, jax.random.key(0), inputs)
        elif need == "features":
            jax.eval_shape(request.classifier.features, request.params, request.stats, inputs)
            return bool(request.classifier.head)
    except ValueError:
        return False
    return need != "classes" or whole_classes(request)


def is_abstract(request: Request) -> bool:
    """Whether the network is given by its shapes only: its steps can be outlined, and nothing can be computed."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(request.params))


def whole_classes(request: Request) -> bool:
    """Whether the forget rows are whole classes: no remaining row has one of their labels."""
    return request.remain is None or not np.isin(np.asarray(request.forget["y"]), np.asarray(request.remain["y"])).any()


def forward(
    request: Request, params: PyTree, stats: PyTree, batch: Mapping[str, Any], key: PRNGKeyArray, *, train: bool
):
    """Logits `[B, C]` and new stats on one batch, with the request's training augmentation."""
    augment_key, network_key = jax.random.split(key)
    inputs = batch["x"] if request.augment is None else request.augment(augment_key, batch["x"])
    return request.classifier.apply(params, stats, inputs, train=train, key=network_key)


def stream(request: Request, rows: Mapping[str, Any], batch_size: int, key: PRNGKeyArray) -> Callable[[int], dict]:
    """`batch_at(step)` over rows, shuffled anew each epoch, laid out on the request's mesh; columns but x, y as given.

    A request of shapes gets batches of shapes.

    Rows that lie on disk, or take more than `RESIDENT_BYTES`, are read batch by batch; the batches are the same.
    """
    columns = {name: column for name, column in rows.items() if name != "index"}
    if is_abstract(request):
        batch = {name: jax.ShapeDtypeStruct((batch_size, *c.shape[1:]), c.dtype) for name, c in columns.items()}
        return lambda step: dict(batch)
    sharding = None if request.mesh is None else batch_sharding(request.mesh)
    size = sum(getattr(column, "nbytes", 0) for column in columns.values())
    large = size > RESIDENT_BYTES or any(map(on_disk, columns.values()))
    return (feed if large else resident)(columns, batch_size, key, sharding=sharding)


def compiled_step(request: Request, loss: Callable, tx) -> Callable:
    """`clujax.training.make_train_step` on the request's mesh."""
    return make_train_step(loss, tx, mesh=request.mesh, rules=request.rules)
