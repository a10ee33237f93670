"""Pools: K models of one form that are loaded one at a time, each with a name and a hash of its content."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from clujax.errors import CheckpointError
from clujax.geometry.paths import named, shown
from clujax.training import integrity
from clujax.training.checkpoint import committed
from clujax.training.digest import tree_digest

LOST_AT_MOST = 5  # paths that an error names


class Identity(NamedTuple):
    """Which model this is: its name, and the SHA-256 of its leaves (`clujax.training.digest`)."""

    name: str
    sha256: str


@runtime_checkable
class Pool(Protocol):
    """K models with the same leaves; nothing is read before it is asked for.

    Attributes:
        struct: the tree of a model as shapes and dtypes.
        names: of the models, in order.
    """

    struct: PyTree
    names: Sequence[str]

    def __len__(self) -> int:
        """K."""
        ...

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k as host arrays; with `paths` a dict of only these leaves."""
        ...


class MemoryPool:
    """Models that are in memory already."""

    def __init__(self, models: Sequence[PyTree], names: Sequence[str] | None = None):
        """Keep the trees as they are; see `Pool`."""
        if not models:
            raise ValueError("a pool needs models; got none.")
        self._models, self.names = list(models), _names(names, len(models))
        self.struct = struct_of(self._models[0])

    def __len__(self) -> int:
        return len(self._models)

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k; see `Pool`."""
        return _some(self._models[k], paths)


class StackedPool:
    """One tree whose leaves have a leading axis over the models, as vmapped training leaves it."""

    def __init__(self, stacked: PyTree, names: Sequence[str] | None = None):
        """Keep the stack where it lies; a model is a slice, copied when loaded."""
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(stacked)}
        if len(counts) != 1 or counts == {()}:
            raise ValueError(
                f"a stacked pool needs one leading axis on every leaf; got leading sizes {sorted(counts)}."
            )
        self._stacked, (self._count,) = stacked, counts.pop()
        self.names = _names(names, self._count)
        self.struct = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)

    def __len__(self) -> int:
        return self._count

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k; see `Pool`."""
        if paths is None:
            return jax.tree.map(lambda leaf: np.asarray(leaf[k]), self._stacked)
        return {path: np.asarray(leaf[k]) for path, leaf in _some(self._stacked, paths).items()}


class OrbaxPool:
    """Models in orbax directories, of which only the wanted subtrees are read.

    A directory is a finished run (or its `checkpoints` folder, whose newest step is taken, or one such step) of
    `clujax.training`, or any tree that orbax saved.
    """

    def __init__(
        self,
        directories: Sequence[str | os.PathLike],
        *,
        subtrees: Sequence[str] = ("params",),
        like: PyTree | None = None,
        names: Sequence[str] | None = None,
    ):
        """Read the shapes of the first model only.

        Args:
            directories: one per model.
            subtrees: what of a checkpoint is the model. One: its tree is the model. Several: a dict of them. None at
                all: the whole tree.
            like: a tree with the containers to return; by default nested dicts.
            names: of the models; by default the directories.

        Raises:
            CheckpointError: the first directory is no checkpoint, or lacks a subtree.
        """
        if not directories:
            raise ValueError("a pool needs models; got no directory.")
        self._folders = [integrity.absolute(directory) for directory in directories]
        self._subtrees, self._like = tuple(subtrees), like
        self.names = _names(names or [str(directory) for directory in directories], len(directories))
        shapes = self._shapes(self._folders[0])
        self.struct = self._as_tree({path: struct for path, (_, struct) in shapes.items()})

    def __len__(self) -> int:
        return len(self._folders)

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k; see `Pool`.

        Raises:
            CheckpointError: it is missing or damaged, or has other leaves than the first model.
        """
        folder = self._folders[k]
        shapes = self._shapes(folder)
        expected = named(self.struct)
        _compare(k, expected, {path: struct for path, (_, struct) in shapes.items()})
        wanted = {path: shapes[path] for path in (expected if paths is None else paths)}
        place, whole = _place(folder)
        if whole is not None and (fault := integrity.fault(whole)) is not None:
            raise CheckpointError(f"model {k}, {folder}: {fault}; train it again, or leave it out of the pool")
        item: dict = {}
        for keys, struct in wanted.values():
            _put(item, keys, struct)
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                request = ocp.args.PyTreeRestore(item=item, restore_args=plain, partial_restore=True)
                found = reader.restore(place, args=request)
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise CheckpointError(f"model {k}, {folder} cannot be read: {error!s:.300}") from error
        leaves = {path: np.asarray(_get(found, keys)) for path, (keys, _) in wanted.items()}
        return leaves if paths is not None else self._as_tree(leaves)

    def _shapes(self, folder: epath.Path) -> dict[str, tuple[tuple, jax.ShapeDtypeStruct]]:
        """Every wanted leaf by its path in the model: where it is in the checkpoint, and its shape."""
        place, whole = _place(folder)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                tree = reader.metadata(place).item_metadata.tree
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise CheckpointError(f"{folder} is no checkpoint that orbax can read: {error!s:.300}") from error
        is_leaf = lambda node: hasattr(node, "shape")
        found = {}
        for keys, meta in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
            keys = tuple(getattr(key, "key", getattr(key, "idx", None)) for key in keys)
            # Our own checkpoints are flat: one key `params.block.kernel` per leaf.
            parts = keys[0].split(".") if whole is not None else [str(key) for key in keys]
            if not self._subtrees:
                path = "/".join(parts)
            elif parts[0] in self._subtrees:
                path = "/".join(parts[len(self._subtrees) == 1 :])
            else:
                continue
            found[path] = keys, jax.ShapeDtypeStruct(tuple(meta.shape), meta.dtype)
        if not found:
            raise CheckpointError(f"{folder} has no subtree {' or '.join(self._subtrees)} to take as the model.")
        return dict(sorted(found.items()))

    def _as_tree(self, leaves: dict[str, Any]) -> PyTree:
        if self._like is not None:
            expected = named(self._like)
            _compare(0, expected, leaves)
            return jax.tree.unflatten(jax.tree.structure(self._like), [leaves[path] for path in expected])
        tree: dict = {}
        for path, leaf in leaves.items():
            _put(tree, path.split("/"), leaf)
        return tree


class Subset:
    """Some models of a pool, in the order given."""

    def __init__(self, pool: Pool, chosen: Sequence[int]):
        """Keep the pool and the numbers of the models to take."""
        if wrong := [k for k in chosen if not 0 <= k < len(pool)]:
            raise ValueError(f"chosen has {wrong}; the pool has models 0 to {len(pool) - 1}.")
        self._pool, self._chosen = pool, list(chosen)
        self.struct, self.names = pool.struct, [pool.names[k] for k in chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k of the subset; see `Pool`."""
        return self._pool.load(self._chosen[k], paths)


def struct_of(tree: PyTree) -> PyTree:
    """The tree as shapes and dtypes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.asarray(leaf).dtype), tree)


def load_checked(pool: Pool, k: int, constants: dict[str, np.ndarray] | None = None) -> PyTree:
    """Model k, after a look at it.

    Args:
        pool: where it is.
        k: its number.
        constants: integer and boolean leaves of a model seen before; filled by the first.

    Raises:
        ValueError: leaves, shapes or dtypes differ from the pool's (the first five paths), a leaf is not finite, or a
            leaf that cannot be mixed differs from another model's.
    """
    model = pool.load(k)
    leaves, expected = named(model), named(pool.struct)
    _compare(k, expected, leaves)
    if jax.tree.structure(model) != jax.tree.structure(pool.struct):
        raise ValueError(
            f"model {k} has the right leaves in other containers than the pool: {jax.tree.structure(model)}."
        )
    floats = [path for path, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    bad = [path for path in floats if not np.isfinite(np.asarray(leaves[path], np.float64).sum())]
    if bad := [path for path in bad if not np.isfinite(np.asarray(leaves[path], np.float32)).all()]:
        raise ValueError(f"model {k} ({pool.names[k]}) is not finite in {shown(bad, LOST_AT_MOST)}; leave it out.")
    if constants is not None:
        for path in leaves.keys() - set(floats):
            if not np.array_equal(constants.setdefault(path, np.asarray(leaves[path])), leaves[path]):
                raise ValueError(
                    f"model {k} differs in {path!r} ({leaves[path].dtype}), which cannot be mixed; such leaves must agree."
                )
    return model


def identity(pool: Pool, k: int) -> Identity:
    """Name and content hash of model k; loads it."""
    return Identity(pool.names[k], tree_digest(pool.load(k)))


def _compare(k: int, expected: dict[str, Any], found: dict[str, Any]) -> None:
    kind = lambda leaf: (
        None
        if leaf is None
        else f"{jnp.asarray(leaf).dtype if np.isscalar(leaf) else leaf.dtype}{list(jnp.shape(leaf))}"
    )
    kinds = {path: (kind(expected.get(path)), kind(found.get(path))) for path in (*expected, *found)}
    differing = {path: pair for path, pair in kinds.items() if pair[0] != pair[1]}
    if differing:
        told = "; ".join(
            f"{path} is {b or 'absent'}, not {a or 'absent'}" for path, (a, b) in list(differing.items())[:LOST_AT_MOST]
        )
        more = f"; and {len(differing) - LOST_AT_MOST} more" if len(differing) > LOST_AT_MOST else ""
        raise ValueError(f"model {k} is of another form than the pool: {told}{more}.")


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    names = [f"model_{k}" for k in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"names has {len(names)} entries for {count} models; give one each.")
    return names


def _some(model: PyTree, paths: Sequence[str] | None) -> PyTree:
    if paths is None:
        return model
    leaves = named(model)
    if strange := [path for path in paths if path not in leaves]:
        raise ValueError(f"no leaf is called {shown(strange)}; the model has {shown(leaves)}.")
    return {path: leaves[path] for path in paths}


def _place(folder: epath.Path) -> tuple[epath.Path, epath.Path | None]:
    """The folder of the arrays, and that of the step where it is one of our own checkpoints."""
    for root in (folder / "checkpoints", folder):
        if root.is_dir() and not (root / "state").is_dir() and (steps := committed(root)):
            root = root / str(steps[-1])
        if (root / "state").is_dir() and (root / integrity.SUMS).exists():
            return root / "state", root
    if not folder.is_dir():
        raise CheckpointError(f"there is no directory {folder}; a pool names one per model.")
    return folder, None


def _put(tree: dict, keys: Sequence, value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _get(tree: Any, keys: Sequence) -> Any:
    for key in keys:
        tree = tree[key]
    return tree
