"""Diagonal Fisher information and squared-gradient importances, in float32, from batches of any source."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from clujax.geometry.weights import norm

KINDS = ("batch", "example", "true")


def diagonal(
    losses: Callable[[PyTree, Any], jax.Array] | None,
    params: PyTree,
    batches: Iterable[Any],
    *,
    kind: str = "batch",
    pre_clip: float | None = None,
    outputs: Callable[[PyTree, Any], jax.Array] | None = None,
    key: PRNGKeyArray | None = None,
    microbatch: int | None = None,
) -> PyTree:
    """Mean over batches of squared gradients; each batch counts equally, a smaller last one too.

    Args:
      losses: `losses(params, batch) -> [B]` per-row losses. Not needed for `kind="true"`.
      params: where the gradients are taken.
      batches: any iterable of batches (trees with a leading row axis); shapes that repeat compile once.
      kind: "batch" squares the gradient of the batch mean (what published unlearning code calls Fisher; it depends on the
        batch size); "example" squares each row's gradient, the empirical Fisher; "true" squares the gradient of
        −log p(y) for a label y drawn from the model itself.
      pre_clip: clip each gradient to this global norm before squaring.
      outputs: `outputs(params, batch) -> [B, C]` logits, for `kind="true"`.
      key: draws the labels, for `kind="true"`.
      microbatch: rows whose gradients are held at once by "example" and "true"; must divide the batch. None: all B.

    Returns:
      A float32 tree like `params`.

    Raises:
      ValueError: an unknown kind, losses not of shape [B], no batches, or a result that is not finite (the leaf is named).

    Cost: one gradient per row; memory of "example" and "true" is `microbatch` copies of the parameters.
    Source: SFR-on (Huang et al. 2024) for "batch"; Kunstner et al. 2019 for the difference between the other two.

    Example:
      >>> losses = lambda w, x: 0.5 * (x - w) ** 2
      >>> x = jnp.array([1.0, -1.0])
      >>> float(diagonal(losses, jnp.array(0.0), [x])), float(diagonal(losses, jnp.array(0.0), [x], kind="example"))
      (0.0, 1.0)
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}.")
    if kind == "true" and (outputs is None or key is None):
        raise ValueError("kind='true' draws labels from the model: give outputs=(params, batch) -> logits and key=.")
    if pre_clip is not None and not pre_clip > 0:
        raise ValueError(f"pre_clip is {pre_clip}; expected a positive norm, or None.")
    total, count = None, 0
    step = jax.jit(
        partial(batch_diagonal, losses, kind=kind, pre_clip=pre_clip, outputs=outputs, microbatch=microbatch)
    )
    for batch in batches:
        found = step(params, batch, key=None if key is None else jax.random.fold_in(key, count))
        total = found if total is None else _add(total, found)
        count += 1
    if count == 0:
        raise ValueError("batches is empty; the Fisher diagonal needs at least one batch.")
    mean = jax.tree.map(lambda leaf: leaf / count, total)
    for path, leaf in jax.tree_util.tree_leaves_with_path(mean):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"the Fisher diagonal of {jax.tree_util.keystr(path) or 'params'} is not finite; check the losses of this"
                " network, or bound each gradient with pre_clip."
            )
    return mean


def batch_diagonal(
    losses: Callable | None,
    params: PyTree,
    batch: Any,
    *,
    kind: str = "batch",
    pre_clip: float | None = None,
    outputs: Callable | None = None,
    key: PRNGKeyArray | None = None,
    microbatch: int | None = None,
) -> PyTree:
    """What one batch adds to `diagonal`; pure, for use inside a jitted or sharded loop. Arguments as there."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    if kind == "batch":
        return _square(_clipped(jax.grad(lambda p: jnp.mean(_checked(losses(p, batch), rows)))(params), pre_clip))

    if kind == "true":
        labels = jax.random.categorical(key, jax.lax.stop_gradient(outputs(params, batch)))
        part = (batch, labels)

        def row_loss(p, row):
            one, label = row
            logits = outputs(p, jax.tree.map(lambda leaf: leaf[None], one))[0]
            return -jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))[label]
    else:
        part = batch

        def row_loss(p, row):
            return jnp.sum(_checked(losses(p, jax.tree.map(lambda leaf: leaf[None], row)), 1))

    def chunk_sum(chunk):
        gradients = jax.vmap(lambda row: _square(_clipped(jax.grad(row_loss)(params, row), pre_clip)))(chunk)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), gradients)

    if microbatch is None or microbatch >= rows:
        total = chunk_sum(part)
    else:
        if rows % microbatch:
            raise ValueError(f"microbatch is {microbatch}; expected a divisor of the batch's {rows} rows.")
        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, microbatch, *leaf.shape[1:]), part)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _float(leaf)), params)
        total, _ = jax.lax.scan(lambda sum_, chunk: (_add(sum_, chunk_sum(chunk)), None), zero, chunks)
    return jax.tree.map(lambda leaf: leaf / rows, total)


def _checked(values, rows):
    if values.shape != (rows,):
        raise ValueError(f"losses must return one value per row, shape ({rows},); got {values.shape}.")
    return values


def _clipped(gradient, max_norm):
    if max_norm is None:
        return gradient
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm(gradient), 1e-30))
    return jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), gradient)


def _square(tree):
    return jax.tree.map(lambda leaf: jnp.square(leaf.astype(_float(leaf))), tree)


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


def _float(leaf):
    return jnp.promote_types(leaf.dtype, jnp.float32)
