"""Where each array of a state lies: rules from its path to a layout on the mesh."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from clujax.errors import ConfigError
from clujax.geometry.paths import path_name
from clujax.training.processes import put
from clujax.training.state import TrainState

Strategy = Callable[[str, tuple[int, ...], Mesh], PartitionSpec]
Rules = Sequence[tuple[str, Strategy]]

# FSDP is data parallel too: devices that share a parameter's shards each take their own rows.
ROW_AXES = ("data", "fsdp")


def replicate() -> Strategy:
    """Keep a whole copy on every device."""
    return lambda path, shape, mesh: PartitionSpec()


def fsdp(axis: str = "fsdp", min_size: int = 2**16) -> Strategy:
    """Split the largest dimension that divides by the size of `axis`; arrays under `min_size` elements stay whole.

    Small arrays cost more in gathers than they save in memory; an array with no dimension that divides stays whole.
    """

    def strategy(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        parts = _axis_size(mesh, axis, path)
        fitting = [dim for dim, extent in enumerate(shape) if extent and extent % parts == 0]
        if parts == 1 or math.prod(shape) < min_size or not fitting:
            return PartitionSpec()
        chosen = max(fitting, key=lambda dim: shape[dim])
        return PartitionSpec(*[axis if dim == chosen else None for dim in range(chosen + 1)])

    return strategy


def partition(*axes: str | None) -> Strategy:
    """Split each dimension over the mesh axis at its place, None keeps it whole; refuses an array that has no such split.

    For a kernel `[width, heads, head]`, `partition("fsdp", "model", None)` is tensor parallel over the heads and splits the
    rest as FSDP does.
    """

    def strategy(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        if len(shape) != len(axes):
            raise ConfigError(
                f"partition{axes} has {len(axes)} places and {path!r} has shape {shape}; narrow the rule's pattern"
            )
        for extent, axis in zip(shape, axes):
            if axis is not None and extent % _axis_size(mesh, axis, path):
                raise ConfigError(
                    f"partition{axes} cannot split {path!r} of shape {shape} over {axis!r} ({mesh.shape[axis]} parts); "
                    "narrow the rule's pattern or change the mesh"
                )
        return PartitionSpec(*axes)

    return strategy


def tensor(axis: str, dim: int) -> Strategy:
    """Split dimension `dim` over `axis` (tensor parallelism); an array that cannot be split so is an error."""

    def strategy(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        parts = _axis_size(mesh, axis, path)
        if not -len(shape) <= dim < len(shape) or shape[dim] % parts:
            raise ConfigError(
                f"tensor({axis!r}, {dim}) cannot split {path!r} of shape {shape} into {parts} parts; "
                "narrow the rule's pattern or change the mesh"
            )
        chosen = dim % len(shape)
        return PartitionSpec(*[axis if d == chosen else None for d in range(chosen + 1)])

    return strategy


def shardings(tree: PyTree, mesh: Mesh, rules: Rules | None = None) -> PyTree:
    """Give every array of a tree its layout; the first rule whose pattern is found in the path decides.

    In a `TrainState` the optimizer state follows its parameters: a leaf whose path ends with a parameter's path and has
    its shape (a momentum, a mask, slow weights) lies as the parameter does, every other leaf is replicated.

    Args:
        tree: a `TrainState` or any tree of arrays or `jax.ShapeDtypeStruct`.
        mesh: from `make_mesh`.
        rules: pairs (regular expression, strategy). Paths look like `block_0/conv/kernel`. Arrays that no rule names
            are replicated. By default `fsdp()` when the mesh has that axis.

    Returns:
        A tree of `NamedSharding` with the structure of `tree`.

    Raises:
        ConfigError: a strategy does not fit an array or the mesh, or a rule's pattern is in no path of a `TrainState`.
    """
    if rules is not None and isinstance(tree, TrainState):
        _check_patterns(rules, (tree.params, tree.stats))
    if rules is None:
        rules = ((".*", fsdp()),) if "fsdp" in mesh.axis_names else ()
    whole = NamedSharding(mesh, PartitionSpec())

    def by_rule(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, strategy in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, strategy(name, _shape(leaf), mesh))
        return whole

    if not isinstance(tree, TrainState):
        return jax.tree_util.tree_map_with_path(by_rule, tree)

    params = jax.tree_util.tree_map_with_path(by_rule, tree.params)
    layout = {
        path: (_shape(leaf), place)
        for (path, leaf), place in zip(
            jax.tree_util.tree_leaves_with_path(tree.params), jax.tree.leaves(params), strict=True
        )
    }

    def like_param(path: tuple, leaf: Any) -> NamedSharding:
        for start in range(len(path) + 1):
            shape, place = layout.get(path[start:], (None, whole))
            if shape == _shape(leaf):
                return place
        return whole

    return TrainState(
        params=params,
        stats=jax.tree_util.tree_map_with_path(by_rule, tree.stats),
        opt_state=jax.tree_util.tree_map_with_path(like_param, tree.opt_state),
        step=whole,
        key=whole,
    )


def shard(tree: PyTree, mesh: Mesh, rules: Rules | None = None) -> PyTree:
    """Put a tree on the mesh as `shardings` says."""
    return put(tree, shardings(tree, mesh, rules))


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """Split the rows of a batch over the axes `data` and `fsdp`, those that the mesh has.

    `leading` counts the dimensions before the rows that stay whole (1 for a stack of batches).
    """
    axes = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, axes) if axes else PartitionSpec())


def batch_shardings(batch: PyTree, mesh: Mesh, *, leading: int = 0) -> PyTree:
    """Give every array of a batch its layout: rows split, scalars replicated.

    Raises:
        ConfigError: the rows do not divide over the devices that share them.
    """
    rows = batch_sharding(mesh, leading=leading)
    axes = rows.spec[leading] if rows.spec else ()
    axes = (axes,) if isinstance(axes, str) else axes  # jax writes a tuple of one axis as the axis
    parts = math.prod(mesh.shape[axis] for axis in axes)

    def place(path: tuple, leaf: Any) -> NamedSharding:
        shape = _shape(leaf)
        if len(shape) <= leading:
            return NamedSharding(mesh, PartitionSpec())
        if shape[leading] % parts:
            raise ConfigError(
                f"batch {path_name(path)!r} has {shape[leading]} rows, which {parts} devices cannot share evenly; "
                f"use a batch size that is a multiple of {parts}"
            )
        return rows

    return jax.tree_util.tree_map_with_path(place, batch)


def shard_batch(batch: PyTree, mesh: Mesh, *, leading: int = 0) -> PyTree:
    """Put a batch on the mesh as `batch_shardings` says.

    Raises:
        ConfigError: as `batch_shardings`.
    """
    return put(batch, batch_shardings(batch, mesh, leading=leading))


# What the built-in models call the dimensions of their activations, and the mesh axes these are split over.
ACTIVATIONS = {"rows": ROW_AXES, "hidden": ("model",)}


@contextlib.contextmanager
def activations_on(mesh: Mesh | None) -> Iterator[None]:
    """Trace a program with the activations of the built-in models laid out on the mesh, by `ACTIVATIONS`."""
    if mesh is None:
        yield
        return
    rules = {name: tuple(axis for axis in axes if axis in mesh.axis_names) for name, axes in ACTIVATIONS.items()}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


def laid_out(tree: PyTree, layout: PyTree) -> PyTree:
    """The shapes of a tree on a layout, on devices that need not be here."""
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(place, jax.eval_shape(lambda: tree) if _has_values(tree) else tree, layout)


def _check_patterns(rules: Rules, tree: PyTree) -> None:
    """Refuse a rule that no path fits: its author believes that something is laid out which is not."""
    names = [path_name(path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in names):
            shown = ", ".join(names[:12]) + (f", and {len(names) - 12} more" if len(names) > 12 else "")
            raise ConfigError(f"the sharding rule {pattern!r} fits no parameter; the paths are: {shown}")


def _has_values(tree: PyTree) -> bool:
    return not all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, "shape", ()))


def _axis_size(mesh: Mesh, axis: str, path: str) -> int:
    if axis not in mesh.axis_names:
        raise ConfigError(f"the rule for {path!r} names the mesh axis {axis!r}; the mesh has {tuple(mesh.axis_names)}")
    return mesh.shape[axis]
