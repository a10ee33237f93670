"""A forget request: a trained network, the rows to forget and the rows to keep."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from clujax.data import resident
from clujax.errors import RequestError
from clujax.models import Classifier
from clujax.training import batch_sharding, make_train_step


class Request(NamedTuple):
    """Everything a method may use to carry out one forget request.

    Attributes:
      classifier: the network, as pure functions.
      params: its trained parameters.
      stats: its other state (BatchNorm averages), `{}` when there is none.
      forget: rows to forget, `{"x": [n_f, ...], "y": [n_f]}`.
      remain: rows to keep, same form.
      num_classes: number of classes C; labels are in [0, C).
      augment: training augmentation `augment(key, x) -> x`, or None.
      mesh, rules: where arrays lie when there is more than one device; see `clujax.training.shardings`.
    """

    classifier: Classifier
    params: PyTree
    stats: PyTree
    forget: Mapping[str, Any]
    remain: Mapping[str, Any]
    num_classes: int
    augment: Callable | None = None
    mesh: Any = None
    rules: Any = None


def check_request(request: Request) -> None:
    """Refuse a request that cannot be carried out, before any work.

    Raises:
      RequestError: naming the part, what came and what was expected.
    """
    for name in ("forget", "remain"):
        rows = getattr(request, name)
        missing = {"x", "y"} - set(rows)
        if missing:
            raise RequestError(f"{name} must hold 'x' and 'y'; missing: {', '.join(sorted(missing))}.")
        x, y = rows["x"], np.asarray(rows["y"])
        if len(x) != len(y):
            raise RequestError(f"{name} has {len(x)} inputs but {len(y)} labels; give one label per row.")
        if len(y) == 0:
            raise RequestError(f"{name} has no rows; a forget request needs at least one row to {name}.")
        if not np.issubdtype(y.dtype, np.integer):
            raise RequestError(f"{name}['y'] has dtype {y.dtype}; expected integer class labels.")
        if y.min() < 0 or y.max() >= request.num_classes:
            raise RequestError(
                f"{name}['y'] spans [{y.min()}, {y.max()}]; expected labels in [0, {request.num_classes})."
                " Check num_classes."
            )
    if "index" in request.forget and "index" in request.remain:
        both = np.intersect1d(np.asarray(request.forget["index"]), np.asarray(request.remain["index"]))
        if both.size:
            raise RequestError(
                f"{both.size} rows are in both forget and remain (first: {both[:5].tolist()}); remove them from one."
            )
    finite = jax.tree.map(lambda leaf: bool(jnp.all(jnp.isfinite(leaf))), request.params)
    for path, ok in jax.tree_util.tree_leaves_with_path(finite):
        if not ok:
            raise RequestError(f"params{jax.tree_util.keystr(path)} has NaN or Inf; start from a finite network.")


def forward(
    request: Request, params: PyTree, stats: PyTree, batch: Mapping[str, Any], key: PRNGKeyArray, *, train: bool
):
    """Logits `[B, C]` and new stats on one batch, with the request's training augmentation."""
    augment_key, network_key = jax.random.split(key)
    inputs = batch["x"] if request.augment is None else request.augment(augment_key, batch["x"])
    return request.classifier.apply(params, stats, inputs, train=train, key=network_key)


def stream(request: Request, rows: Mapping[str, Any], batch_size: int, key: PRNGKeyArray) -> Callable[[int], dict]:
    """`batch_at(step)` over rows, shuffled anew each epoch, laid out on the request's mesh; columns but x, y as given."""
    columns = {name: column for name, column in rows.items() if name != "index"}
    sharding = None if request.mesh is None else batch_sharding(request.mesh)
    return resident(columns, batch_size, key, sharding=sharding)


def compiled_step(request: Request, loss: Callable, tx) -> Callable:
    """`clujax.training.make_train_step` on the request's mesh."""
    return make_train_step(loss, tx, mesh=request.mesh, rules=request.rules)
