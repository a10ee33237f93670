"""Which leaves get an adapter, and of what kind: rules by path become a static specification."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.geometry.layouts import Layout, Pattern, checked, infer_layout, matches
from clujax.geometry.paths import named, shown
from clujax.lora.initializations import Initialization, kaiming


def standard(alpha: float, rank: int) -> float:
    """α/r."""
    return alpha / rank


def rank_stabilized(alpha: float, rank: int) -> float:
    """α/√r (rsLoRA, Kalajdzievski 2023)."""
    return alpha / rank**0.5


class LoraRule(NamedTuple):
    """Adapters for the leaves that `pattern` takes.

    Attributes:
      pattern: a regular expression found in the '/'-joined path, or a predicate (path, leaf) -> bool.
      rank: r.
      alpha: α of the scaling.
      scaling: `standard` (α/r) or `rank_stabilized` (α/√r), or any function (α, r) -> s.
      layout: the kernel's axes; None infers them from the name and shape (`geometry.infer_layout`).
      init: how a and b begin: `kaiming`, `gaussian`, `he`, `pissa()`, `olora`, `lora_ga()`.
      dtype: of the adapters.
      magnitude: a trained norm for every filter and a direction from W + s·a·b (DoRA).
      dropout: share of the inputs of a that are left out, where `factored` is given a key; merged kernels know none.
    """

    pattern: Pattern
    rank: int = 8
    alpha: float = 16.0
    scaling: Any = standard
    layout: Layout | None = None
    init: Initialization = kaiming
    dtype: Any = jnp.float32
    magnitude: bool = False
    dropout: float = 0.0


class Adapted(NamedTuple):
    """One leaf with an adapter: a rule resolved for its shape."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    rank: int
    scale: float
    init: Initialization
    dtype: Any
    magnitude: bool
    dropout: float = 0.0


class Spec(tuple[Adapted, ...]):
    """Adapted leaves in the tree's order; static and hashable.

    Example:
      >>> from clujax.lora import LoraRule, build_spec
      >>> build_spec({"dense": {"kernel": jnp.ones((4, 3))}}, [LoraRule("kernel", rank=2)])["dense/kernel"].scale
      8.0
    """

    __slots__ = ()

    def __getitem__(self, key):
        """An entry by path, or by place as in any tuple."""
        if isinstance(key, str):
            return next((entry for entry in self if entry.name == key), None) or _absent(key, self)
        return super().__getitem__(key)

    @property
    def layouts(self) -> dict[str, Layout]:
        """Layouts by path, as `geometry.filter_wise` takes them."""
        return {entry.name: entry.layout for entry in self}


def build_spec(params: PyTree, rules: Sequence[LoraRule], *, allow_overlap: bool = False) -> Spec:
    """Resolve rules against a tree of arrays or shapes.

    Args:
      params: the base parameters.
      rules: see `LoraRule`.
      allow_overlap: the first rule that takes a leaf holds; without it two rules for one leaf are an error.

    Raises:
      ValueError: no rules; a rule takes no leaf, or one with fewer than two axes, or of an integer dtype; two rules take one
        leaf; a layout is missing and cannot be inferred; a rank, scaling or dropout that does not fit.
    """
    if not rules:
        raise ValueError("no rules; give at least one LoraRule(pattern, rank).")
    leaves, taken = named(params), {}
    for rule in rules:
        names = [name for name, leaf in leaves.items() if matches(rule.pattern, name, leaf)]
        if not names:
            raise ValueError(f"the rule {rule.pattern!r} takes no leaf; {_nearest(rule.pattern, leaves)}.")
        for name in names:
            if name in taken and not allow_overlap:
                raise ValueError(
                    f"the rules {taken[name].pattern!r} and {rule.pattern!r} both take {name!r}; narrow one, or let the "
                    "first hold with allow_overlap=True."
                )
            taken.setdefault(name, rule)
    return Spec(_resolved(name, leaf, taken[name]) for name, leaf in leaves.items() if name in taken)


def _resolved(name: str, leaf: Any, rule: LoraRule) -> Adapted:
    shape = tuple(leaf.shape)
    if len(shape) < 2:
        raise ValueError(
            f"the rule {rule.pattern!r} takes {name!r} of shape {shape}; adapters need a kernel with inputs and outputs: "
            "narrow the pattern (such as 'kernel$')."
        )
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"the rule {rule.pattern!r} takes {name!r} of dtype {leaf.dtype}; adapt float kernels, or hand in the "
            "dequantised tree: merge(dequantise(base), adapters, spec) leaves the stored integers as they are."
        )
    layout = checked(name, shape, infer_layout(name, shape) if rule.layout is None else rule.layout)
    most = min(layout.sizes(shape)) // rule.init.rank_factor
    if not 0 < rule.rank <= most:
        n, m = layout.sizes(shape)
        raise ValueError(
            f"rank is {rule.rank} for {name!r} with {n} inputs and {m} outputs; expected 1 to {most} "
            f"(initialisation {rule.init.name})."
        )
    scale = float(rule.scaling(rule.alpha, rule.rank))
    if not (math.isfinite(scale) and scale != 0):
        raise ValueError(
            f"the scaling of {name!r} at alpha {rule.alpha} and rank {rule.rank} is {scale}; expected a number."
        )
    if not 0 <= rule.dropout < 1:
        raise ValueError(f"dropout is {rule.dropout} for {name!r}; expected a share from 0 to below 1.")
    return Adapted(
        name, shape, layout, rule.rank, scale, rule.init, jnp.dtype(rule.dtype), rule.magnitude, rule.dropout
    )


def _nearest(pattern: Pattern, leaves: Mapping[str, Any]) -> str:
    """The paths, those most like the pattern first."""
    if not isinstance(pattern, str):
        return f"the paths are {shown(leaves)}"
    alike = lambda name: -difflib.SequenceMatcher(None, pattern, name).ratio()
    return f"the nearest paths are {shown(sorted(leaves, key=alike), 6)}"


def _absent(name: str, spec: Spec) -> Adapted:
    raise KeyError(f"{name!r} has no adapter; the spec has {shown(entry.name for entry in spec)}.")
