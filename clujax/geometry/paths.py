"""Names of leaves: a tree of parameters as a mapping from path to array, and back."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree


def path_name(path: tuple) -> str:
    """Write a tree path as `block_0/conv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: PyTree) -> dict[str, Any]:
    """Leaves by path name, in the tree's order.

    Example:
      >>> named({"b": {"kernel": 1}, "a": 2})
      {'a': 2, 'b/kernel': 1}
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replaced(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """The tree with the leaves of these names put in; the others are the very same arrays.

    Raises:
      ValueError: a name is no path of the tree.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in flat]
    if strange := sorted(set(leaves) - set(names)):
        raise ValueError(f"no leaf is called {', '.join(strange[:5])}; the tree has {shown(names)}.")
    return jax.tree.unflatten(structure, [leaves.get(name, leaf) for name, (_, leaf) in zip(names, flat)])


def stable_hash(name: str) -> int:
    """32 bits of a name that are the same in every process, version and tree around it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def shown(names: Any, most: int = 12) -> str:
    """The first few names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
