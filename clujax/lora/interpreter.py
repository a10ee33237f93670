"""A traced function evaluated with factors beside its kernels: x·W becomes x·W + (x·a)·b where a kernel meets an input.

An adapted kernel travels through the program as a `Beside`. Few operations may touch one: those that rename or cast it, those
that carry it into an inner program, and the two products. Anything else is refused by name, so that no adapter is lost.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PRNGKeyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beside:
    """A kernel W and its factors, W + a·b in all but name; s is part of b.

    Attributes:
      kernel: W, with an axis for each of `letters`.
      a: with the axes `a_letters`: batch, inputs and r.
      b: with the axes `b_letters`: batch, r and outputs.
      ratio: with DoRA m/‖V‖, with the letters of W that are no inputs, in W's order at the start.
      key: of the dropout on what a reads, None for none.
      name: path of the leaf.
      dropout: share that is left out.
    """

    kernel: Array
    a: Array
    b: Array
    ratio: Array | None
    key: PRNGKeyArray | None
    name: str = dataclasses.field(metadata={"static": True})
    letters: str = dataclasses.field(metadata={"static": True})
    a_letters: str = dataclasses.field(metadata={"static": True})
    b_letters: str = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(metadata={"static": True})

    @property
    def inputs(self) -> str:
        """Letters of the axes that are summed over with the input."""
        return "".join(letter for letter in self.a_letters if letter not in self.b_letters)

    @property
    def outputs(self) -> str:
        """Letters of the axes that come out."""
        return "".join(letter for letter in self.b_letters if letter not in self.a_letters)

    @property
    def ratio_letters(self) -> str:
        """Axes of `ratio`; the letters were given in the order of the kernel's axes."""
        return "".join(sorted(letter for letter in self.letters if letter not in self.inputs))


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], met: dict[str, int]) -> list[Any]:
    """Evaluate a program on arrays and `Beside`s, counting in `met` how often each kernel meets an input.

    Raises:
      ValueError: a `Beside` goes into an operation that has no rule.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        kernels = [value for value in values if isinstance(value, Beside)]
        with equation.ctx.manager:
            if not kernels:
                options = equation.primitive.get_bind_params(equation.params)
                functions, options = ((), options) if isinstance(options, dict) else options  # jax 0.10.1: a pair
                found = equation.primitive.bind(*functions, *values, **options)
                found = found if equation.primitive.multiple_results else [found]
            elif equation.primitive.name in _RULES:
                found = _RULES[equation.primitive.name](equation, values, met)
            else:
                raise _refusal(kernels[0], f"goes into {equation.primitive.name}")
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _refusal(kernel: Beside, what: str) -> ValueError:
    return ValueError(
        f"the adapted kernel {kernel.name!r} {what}, and factored knows the product and the convolution with an input over "
        "all of its input axes; use lorafy, which merges the kernel first, or take it out of the rules."
    )


def _alone(equation: JaxprEqn, kernel: Array) -> Array:
    """What the equation makes of the kernel."""
    found = equation.primitive.bind(kernel, **equation.params)
    return found[0] if equation.primitive.multiple_results else found


def _passed(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    return [dataclasses.replace(values[0], kernel=_alone(equation, values[0].kernel))]


def _cast(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    kernel = _alone(equation, values[0].kernel)
    a, b = (factor.astype(kernel.dtype) for factor in (values[0].a, values[0].b))
    return [dataclasses.replace(values[0], kernel=kernel, a=a, b=b)]


def _stopped(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    """No gradient for the merged kernel is none for the factors either."""
    return [jax.lax.stop_gradient(values[0])]


def _transposed(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    letters = "".join(values[0].letters[axis] for axis in equation.params["permutation"])
    return [dataclasses.replace(values[0], kernel=_alone(equation, values[0].kernel), letters=letters)]


def _inlined(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    inner = equation.params["jaxpr"] if "jaxpr" in equation.params else equation.params["call_jaxpr"]
    return evaluate(inner.jaxpr, inner.consts, values, met)


def _checkpointed(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    options = {name: equation.params[name] for name in ("policy", "prevent_cse")}
    inner = equation.params["jaxpr"]
    return jax.checkpoint(lambda *inside: evaluate(inner, (), inside, met), **options)(*values)


def _scanned(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    options, inner = equation.params, equation.params["jaxpr"].jaxpr
    # Rows and stacked results have one axis more outside than inside; jax has named their numbers in several ways.
    second, num_carry = _as_inside(equation.invars, inner.invars), _as_inside(equation.outvars, inner.outvars)
    first = second - num_carry
    consts, carry, rows = values[:first], values[first:second], values[second:]
    if through := [value for value in carry if isinstance(value, Beside)]:
        raise _refusal(through[0], "is carried from step to step of a scan")
    keys = lambda value: jax.random.split(value.key, options["length"])
    keyed = lambda value: isinstance(value, Beside) and value.key is not None
    rows = [
        dataclasses.replace(_stacked(row), key=keys(row) if keyed(row) else None) if isinstance(row, Beside) else row
        for row in rows
    ]
    # A kernel that all steps share drops other inputs in each.
    const_keys = [keys(value) if keyed(value) else None for value in consts]

    def body(state: list[Any], row: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        shared = [value if key is None else dataclasses.replace(value, key=key) for value, key in zip(consts, row[0])]
        found = evaluate(options["jaxpr"].jaxpr, options["jaxpr"].consts, [*shared, *state, *row[1]], met)
        if returned := [value for value in found if isinstance(value, Beside)]:
            raise _refusal(returned[0], "is returned by a scan")
        return found[:num_carry], found[num_carry:]

    shape = {name: options[name] for name in ("length", "reverse", "unroll")}
    last, stacked = jax.lax.scan(body, carry, (const_keys, rows), **shape)
    return [*last, *stacked]


def _as_inside(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(one.aval.ndim == other.aval.ndim for one, other in zip(outside, inside, strict=True))


def _stacked(value: Beside) -> Beside:
    """The kernels of a stack as a scan slices them: arrays keep the first axis, in front, and the letters lose it."""
    axis = value.letters[0]
    if axis in value.inputs + value.outputs:
        raise _refusal(
            value, f"is scanned over axis {axis!r} of its layout, which is no batch axis (give batch=(0,) for a stack)"
        )
    first = lambda array, letters: jnp.moveaxis(array, letters.index(axis), 0)
    return dataclasses.replace(
        value,
        a=first(value.a, value.a_letters),
        b=first(value.b, value.b_letters),
        ratio=None if value.ratio is None else first(value.ratio, value.ratio_letters),
        letters=value.letters[1:],
        a_letters=value.a_letters.replace(axis, ""),
        b_letters=value.b_letters.replace(axis, ""),
    )


def _product(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    """dot_general as an einsum in letters: those of W, and capitals for the axes of x alone."""
    if all(isinstance(value, Beside) for value in values):
        raise _refusal(values[0], "is multiplied by another adapted kernel")
    at = 0 if isinstance(values[0], Beside) else 1
    kernel, x = values[at], values[1 - at]
    contracted, batch = equation.params["dimension_numbers"]
    letters = [chr(ord("A") + axis) for axis in range(x.ndim)]
    for mine, theirs in ((contracted[at], contracted[1 - at]), (batch[at], batch[1 - at])):
        for axis, other in zip(mine, theirs):
            letters[other] = kernel.letters[axis]
    summed = {kernel.letters[axis] for axis in contracted[at]}
    free = lambda names, skip: "".join(name for i, name in enumerate(names) if i not in skip)
    sides = [free(kernel.letters, (*contracted[at], *batch[at])), free(letters, (*contracted[1 - at], *batch[1 - at]))]
    out = "".join(kernel.letters[axis] for axis in batch[at]) + "".join(sides if at == 0 else reversed(sides))

    if summed == set(kernel.inputs):
        near, far = (kernel.a, kernel.a_letters), (kernel.b, kernel.b_letters)
    elif summed == set(kernel.outputs) and kernel.ratio is None:  # a tied kernel read the other way: x·Wᵀ
        near, far = (kernel.b, kernel.b_letters), (kernel.a, kernel.a_letters)
    else:
        raise _refusal(kernel, f"of layout {_layout(kernel)} is summed over {_sorted(summed)}")
    whole = (value.kernel if isinstance(value, Beside) else value for value in values)
    plain = equation.primitive.bind(*whole, **equation.params)
    options = {name: equation.params[name] for name in ("precision", "preferred_element_type")}
    through = "".join(letters) + "".join(name for name in near[1] if name not in letters)
    through = "".join(name for name in through if name not in summed)
    inner = jnp.einsum(
        f"{''.join(letters)},{near[1]}->{through}", _dropped(x, kernel, met), near[0].astype(x.dtype), **options
    )
    more = jnp.einsum(f"{through},{far[1]}->{out}", inner, far[0].astype(inner.dtype), **options)
    found = plain + more.astype(plain.dtype)
    if kernel.ratio is not None:
        found = jnp.einsum(f"{out},{kernel.ratio_letters}->{out}", found, kernel.ratio.astype(found.dtype))
    return [found]


def _convolution(equation: JaxprEqn, values: list[Any], met: dict[str, int]) -> list[Any]:
    """The convolution with a, then b at every position; in each group of channels when there are several."""
    x, kernel = values
    options = equation.params
    spec, groups = options["dimension_numbers"], options["feature_group_count"]
    of_out = spec.rhs_spec[0] if isinstance(kernel, Beside) else 0
    if not isinstance(kernel, Beside) or isinstance(x, Beside):
        raise _refusal(x, "is the input of a convolution")
    if options["batch_group_count"] != 1 or kernel.letters[of_out] != kernel.outputs or len(kernel.letters) != x.ndim:
        raise _refusal(kernel, f"of layout {_layout(kernel)} is convolved along others")
    order = kernel.letters.replace(kernel.outputs, "r")
    narrow = jnp.transpose(kernel.a, [kernel.a_letters.index(name) for name in order])
    narrow = jnp.concatenate([narrow] * groups, axis=of_out) if groups > 1 else narrow
    inner = equation.primitive.bind(_dropped(x, kernel, met), narrow.astype(x.dtype), **options)
    feature = spec.out_spec[1]
    inner = jnp.moveaxis(inner, feature, -1)
    rank, outputs = kernel.b.shape
    more = jnp.einsum(
        "...gr,rgo->...go",
        inner.reshape(*inner.shape[:-1], groups, rank),
        kernel.b.reshape(rank, groups, outputs // groups).astype(inner.dtype),
        precision=options["precision"],
    )
    plain = equation.primitive.bind(x, kernel.kernel, **options)
    found = plain + jnp.moveaxis(more.reshape(*more.shape[:-2], outputs), -1, feature).astype(plain.dtype)
    if kernel.ratio is not None:
        around = [1] * found.ndim
        around[feature] = outputs
        found = found * kernel.ratio.reshape(around).astype(found.dtype)
    return [found]


def _dropped(x: Array, kernel: Beside, met: dict[str, int]) -> Array:
    """The input that a reads; each meeting has a mask of its own."""
    met[kernel.name] = met.get(kernel.name, 0) + 1
    if kernel.key is None:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(kernel.key, met[kernel.name]), 1 - kernel.dropout, x.shape)
    return jnp.where(kept, x / jnp.asarray(1 - kernel.dropout, x.dtype), jnp.zeros_like(x))


def _layout(kernel: Beside) -> str:
    return f"{kernel.letters} (inputs {kernel.inputs}, outputs {kernel.outputs})"


def _sorted(letters: set[str]) -> str:
    return "".join(sorted(letters)) or "no axis"


_RULES = {
    "convert_element_type": _cast,
    "stop_gradient": _stopped,
    "transpose": _transposed,
    "copy": _passed,
    "sharding_constraint": _passed,
    "name": _passed,
    "jit": _inlined,
    "pjit": _inlined,
    "closed_call": _inlined,
    "core_call": _inlined,
    "remat2": _checkpointed,
    "checkpoint": _checkpointed,
    "scan": _scanned,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
