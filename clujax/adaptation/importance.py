"""Fisher diagonals of the forget and remaining rows, and the balanced mask made of them."""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.request import Request, is_abstract
from clujax.errors import CheckpointError, ConfigError
from clujax.geometry import check_mask, density, diagonal_estimator, ratio_mask
from clujax.training import processes, shard, shard_batch


def fisher_diagonals(
    request: Request,
    *,
    kind: str = "batch",
    max_batches: int | None = None,
    batch_size: int = 128,
    pre_clip: float | None = None,
    key: PRNGKeyArray,
) -> tuple[PyTree, PyTree]:
    """Diagonal Fisher information of the original network on forget and on remain, in eval mode.

    The training augmentation is on, as published; each batch counts equally, the last, smaller one too.
    Cost: one gradient per row of either set.
    """
    options = {"kind": kind, "max_batches": max_batches, "batch_size": batch_size, "pre_clip": pre_clip}
    parts = zip((request.forget, request.remain), jax.random.split(key), strict=True)
    estimate = _estimator(request, kind, pre_clip)
    return tuple(row_diagonal(request, rows, key=part_key, estimate=estimate, **options) for rows, part_key in parts)


def row_diagonal(
    request: Request,
    rows: Mapping[str, Any],
    *,
    kind: str = "batch",
    max_batches: int | None = None,
    batch_size: int = 128,
    pre_clip: float | None = None,
    key: PRNGKeyArray,
    estimate: Callable | None = None,
) -> PyTree:
    """Diagonal Fisher information of the original network on any rows; arguments and cost as `fisher_diagonals`."""
    estimate = estimate or _estimator(request, kind, pre_clip)
    params, batches = request.params, augmented_batches(request, rows, batch_size, max_batches, key)
    if request.mesh is not None and (kind == "batch" or not _one_at_a_time()):
        params = shard(params, request.mesh, request.rules)
        batches = (_placed(batch, request.mesh) for batch in batches)
    return estimate(params, batches, key)


def _estimator(request, kind, pre_clip):
    def outputs(params, batch):
        return request.classifier.apply(params, request.stats, batch["x"], train=False)[0]

    def losses(params, batch):
        return cross_entropy(outputs(params, batch), batch["y"])

    microbatch = 1 if _one_at_a_time() else None
    return diagonal_estimator(losses, kind=kind, pre_clip=pre_clip, outputs=outputs, microbatch=microbatch)


def _one_at_a_time():
    # On a CPU a copy of the weights for each row of a batch falls out of the cache: one row at a time is faster there.
    return jax.default_backend() == "cpu"


def _placed(batch, mesh):
    """A batch on the mesh: rows split where they divide, whole on every device where they do not (the last of a set)."""
    try:
        return shard_batch(batch, mesh)
    except ConfigError:
        whole = NamedSharding(mesh, PartitionSpec())
        return processes.put(batch, jax.tree.map(lambda leaf: whole, batch))


def augmented_batches(request, rows, batch_size, max_batches, key):
    """Batches of the rows in a shuffled order, the last one ragged."""
    order = np.asarray(jax.random.permutation(key, len(rows["y"])))
    starts = itertools.islice(range(0, len(order), batch_size), max_batches)
    for i, start in enumerate(starts):
        part = order[start : start + batch_size]
        inputs = jnp.asarray(rows["x"][part])
        if request.augment is not None:
            inputs = request.augment(jax.random.fold_in(key, i), inputs)
        yield {"x": inputs, "y": jnp.asarray(rows["y"][part])}


def balanced_mask(request: Request, threshold: float, **options) -> tuple[PyTree, dict]:
    """The mask F_forget / F_remain ≥ threshold, checked, with its density report; options as `fisher_diagonals`.

    A request of shapes gets the mask that keeps all.
    """
    if is_abstract(request):
        return jax.tree.map(lambda leaf: np.broadcast_to(np.True_, leaf.shape), request.params), {}
    forget, remain = fisher_diagonals(request, **options)
    mask = ratio_mask(forget, remain, threshold)
    check_mask(mask, request.params)
    return mask, {"density": density(mask)}


def digest(request: Request, **options) -> str:
    """What Fisher diagonals depend on, as one hash: parameters, stats, rows and options."""
    found = hashlib.sha256(repr(sorted(options.items())).encode())
    for tree in (request.params, request.stats, request.forget, request.remain):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array = np.asarray(leaf)
            found.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def save_diagonals(path, diagonals: tuple[PyTree, PyTree], request: Request, **options) -> None:
    """Write both diagonals to one `.npz`, with the digest of what they were computed from."""
    leaves = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(diagonals))}
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez(partial, digest=digest(request, **options), **leaves)
    partial.replace(path)


def load_diagonals(path, request: Request, **options) -> tuple[PyTree, PyTree]:
    """Read what `save_diagonals` wrote.

    Raises:
      CheckpointError: when they belong to other parameters, rows or options (a stale cache).
    """
    with np.load(path) as file:
        expected, found = digest(request, **options), str(file["digest"])
        if found != expected:
            raise CheckpointError(
                f"{path} holds Fisher diagonals of another network, split or batch size (digest {found[:12]}, expected"
                f" {expected[:12]}). Delete it and compute them again."
            )
        leaves = [jnp.asarray(file[name]) for name in sorted(file.files) if name != "digest"]
    return jax.tree.unflatten(jax.tree.structure((request.params, request.params)), leaves)
