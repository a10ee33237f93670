"""Which axes of a kernel are summed over with the input: what "a filter" is, and where a low-rank factor attaches."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from clujax.geometry.paths import named, shown

Pattern = str | Callable[[str, Any], bool]


class Layout(NamedTuple):
    """The axes of a kernel: `fan_in` are contracted with the input, `batch` stack kernels that do not meet, the rest are out.

    One filter is what one output reads: all entries along `fan_in` at fixed other axes.

    Example:
      >>> Layout((0, 1, 2)).outputs(4), Layout((1,), batch=(0,)).outputs(3)
      ((3,), (2,))
    """

    fan_in: tuple[int, ...]
    batch: tuple[int, ...] = ()

    def outputs(self, ndim: int) -> tuple[int, ...]:
        """The axes that are neither summed over nor stacked."""
        return tuple(axis for axis in range(ndim) if axis not in self.fan_in + self.batch)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int]:
        """Inputs n and outputs m of one kernel of this shape."""
        return (math.prod(shape[i] for i in self.fan_in), math.prod(shape[i] for i in self.outputs(len(shape))))


KNOWN = """\
  Dense kernel (in, out)                       Layout((0,))
  Conv kernel (..., cin, cout)                 Layout((0, 1, 2)) for two spatial axes
  attention query, key, value (d, heads, hd)   Layout((0,))
  attention out (heads, hd, d)                 Layout((0, 1))
  scan-stacked Dense (layers, in, out)         Layout((1,), batch=(0,))
  embedding (vocabulary, d): a row a filter    Layout((1,))
  torch or equinox weight (out, in, ...)       Layout((1,)), Layout((1, 2, 3))"""


def infer_layout(name: str, shape: Sequence[int]) -> Layout:
    """The layout that a leaf's name and shape tell: linen and nnx kernels, embeddings, torch and equinox weights.

    Raises:
      ValueError: fewer than two axes, or a kernel that could be read in more than one way (name its layout).

    Example:
      >>> infer_layout("attention/out/kernel", (4, 16, 64))
      Layout(fan_in=(0, 1), batch=())
    """
    *parents, last = name.split("/")
    if len(shape) < 2:
        raise ValueError(f"{name!r} has shape {tuple(shape)}; a kernel has at least two axes (inputs and outputs).")
    if last == "embedding" and len(shape) == 2:
        return Layout((1,))
    if last == "weight":
        return Layout(tuple(range(1, len(shape))))
    if len(shape) in (2, 4):
        return Layout(tuple(range(len(shape) - 1)))
    if len(shape) == 3 and parents and parents[-1] in ("query", "key", "value"):
        return Layout((0,))
    if len(shape) == 3 and parents and parents[-1] == "out":
        return Layout((0, 1))
    raise ValueError(f"{name!r} of shape {tuple(shape)} may be read in several ways; give its layout:\n{KNOWN}")


def matches(pattern: Pattern, name: str, leaf: Any) -> bool:
    """Whether a rule's pattern (a regular expression found in the name, or a predicate of name and leaf) takes a leaf."""
    return bool(re.search(pattern, name)) if isinstance(pattern, str) else bool(pattern(name, leaf))


def layouts(
    params: PyTree, rules: Sequence[tuple[Pattern, Layout | None]] = ((r"kernel$", None),)
) -> dict[str, Layout]:
    """Layouts by path of the leaves that a rule takes; the first rule that takes a leaf decides, None infers.

    Args:
      params: arrays or shapes.
      rules: pairs (pattern, layout); see `matches`.

    Raises:
      ValueError: a rule takes no leaf, or a layout does not fit its leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> layouts({"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      {'a/kernel': Layout(fan_in=(0,), batch=())}
    """
    leaves, found = named(params), {}
    for pattern, layout in rules:
        taken = [name for name, leaf in leaves.items() if matches(pattern, name, leaf)]
        if not taken:
            raise ValueError(f"the rule {pattern!r} takes no leaf; the paths are {shown(leaves)}.")
        for name in taken:
            shape = leaves[name].shape
            found.setdefault(name, checked(name, shape, infer_layout(name, shape) if layout is None else layout))
    return found


def checked(name: str, shape: Sequence[int], layout: Layout) -> Layout:
    """The layout, with negative axes counted from the front.

    Raises:
      ValueError: an axis is not there or named twice, or no axis is left for one of inputs and outputs.
    """
    every = layout.fan_in + layout.batch
    if any(not -len(shape) <= axis < len(shape) for axis in every):
        raise ValueError(f"{layout} names an axis that {name!r} of shape {tuple(shape)} does not have.")
    tidy = Layout(tuple(a % len(shape) for a in layout.fan_in), tuple(a % len(shape) for a in layout.batch))
    every = tidy.fan_in + tidy.batch
    if len(set(every)) < len(every) or not tidy.fan_in or not tidy.outputs(len(shape)):
        raise ValueError(
            f"{layout} does not split the axes of {name!r} of shape {tuple(shape)} into inputs and outputs:\n{KNOWN}"
        )
    return tidy


Layouts = Mapping[str, Layout]
