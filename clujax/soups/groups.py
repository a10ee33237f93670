"""Rules for which leaves share a coefficient. A rule is a function (names, sizes) -> one group name per mixed leaf."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.geometry.mixing import KEPT, Groups
from clujax.geometry.paths import named, shown

Rule = Callable[[Sequence[str], Sequence[int]], Sequence[Any]]
STATISTICS = "statistics"


def leaf(names: Sequence[str], sizes: Sequence[int]) -> Sequence[str]:
    """Every tensor its own group (the "+" methods, and what the official script calls a layer)."""
    return names


def module(names: Sequence[str], sizes: Sequence[int]) -> Sequence[str]:
    """The tensors of one module together: `block/kernel` and `block/bias` are `block`."""
    return [name.rpartition("/")[0] or name for name in names]


def whole(names: Sequence[str], sizes: Sequence[int]) -> Sequence[str]:
    """One coefficient for the whole model."""
    return ["all"] * len(names)


def by_size(threshold: int) -> Rule:
    """Tensors in order, merged until a group has more than `threshold` entries; 0 is `leaf`, D and above `whole`.

    Example:
        >>> by_size(50)(("a", "b", "c", "d"), (96, 12, 60, 5))
        ['a', 'b', 'b', 'd']
    """

    def rule(names, sizes):
        found, total = [], math.inf
        for name, size in zip(names, sizes):
            if total > threshold:
                head, total = name, 0
            total += size
            found.append(head)
        return found

    return rule


def by(function: Callable[[str], Any]) -> Rule:
    """Groups named by a function of the path; a path for which it gives None is an error."""
    return lambda names, sizes: [function(name) for name in names]


def make_groups(struct: PyTree, rule: Rule = leaf, frozen: Callable[[str], bool] | None = None) -> Groups:
    """The groups of a tree.

    Args:
        struct: arrays or shapes.
        rule: names the group of every float leaf; integers and flags are in none.
        frozen: paths that are not mixed with the rest but form one group of their own (running statistics).

    Raises:
        ValueError: the rule has no group for some paths, or another number of groups than paths; nothing can be mixed.
    """
    leaves = named(struct)
    is_float = {
        name: jnp.issubdtype(jax.dtypes.canonicalize_dtype(each.dtype), jnp.inexact) for name, each in leaves.items()
    }
    still = {name for name in leaves if is_float[name] and frozen is not None and frozen(name)}
    names = tuple(name for name in leaves if is_float[name] and name not in still)
    if not names:
        raise ValueError(f"nothing can be mixed: no floating leaf among {shown(leaves) or 'no leaves'}.")
    found = list(rule(names, tuple(math.prod(leaves[name].shape) for name in names)))
    if len(found) != len(names):
        raise ValueError(f"the group rule gave {len(found)} groups for {len(names)} leaves; expected one for each.")
    if missing := [name for name, group in zip(names, found) if group is None]:
        raise ValueError(f"the group rule has no group for {shown(missing, 5)}; it must give one for every path.")
    group_of = dict(zip(names, map(str, found))) | {name: STATISTICS for name in leaves if name in still}
    labels = tuple(dict.fromkeys(group_of.values()))
    number = {label: i for i, label in enumerate(labels)}
    of = tuple(number[group_of[name]] if name in group_of else KEPT for name in leaves)
    return Groups(labels, of, (number[STATISTICS],) if still else ())
