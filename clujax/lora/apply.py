"""A network with adapters as one function: merged into its kernels, or beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from clujax.geometry import lowrank
from clujax.geometry.paths import named, shown
from clujax.geometry.perturb import leaf_key, std_of
from clujax.lora.adapters import Adapters, check, check_shapes, merge
from clujax.lora.interpreter import Beside, evaluate
from clujax.lora.rules import Adapted, Spec


def lorafy(apply_fn: Callable[..., Any], spec: Spec) -> Callable[..., Any]:
    """`f(base, adapters, *args) = apply_fn(merge(base, adapters, spec), *args)`: any function of a tree of parameters.

    Two sets of adapters: `lorafy(lorafy(apply_fn, one), two)` is called as `f(base, of_two, of_one, *args)`.

    Cost: s·a·b is formed, and for the gradient of a and b that of the whole kernel (6 operations a weight and row for a
    step, instead of the 4 of `factored`). Dropout of the rules has no place here.
    """

    def apply(base: PyTree, adapters: Adapters, *args: Any, **options: Any) -> Any:
        return apply_fn(merge(base, adapters, spec), *args, **options)

    return apply


def factored(apply_fn: Callable[..., Any], spec: Spec) -> Callable[..., Any]:
    """The function of `lorafy`, computed as y = x·W + s·(x·a)·b wherever a kernel W meets its input x.

    `apply_fn` is traced, and the matrix products and convolutions that read an adapted kernel are replaced: in linen, nnx,
    equinox or hand-written networks, through `jit`, `jax.checkpoint`, casts, transposes and scans over stacked layers. The
    result and its gradients are those of `lorafy` up to rounding; neither W + s·a·b nor a gradient of the kernel's size is
    formed, unless the base's own gradient is asked for. With DoRA y is scaled per output.

    Returns:
      `f(base, adapters, *args, dropout_key=None, **options)`; with a key, the rules' dropout acts on the x of (x·a).

    Raises:
      ValueError: when called: adapters or a base that do not fit; an adapted kernel that goes into anything else (the message
        names the operation), or never meets an input.

    Cost: 4 operations a weight and row for a step, 6·r·(n + m) a row for an adapter. It is traced anew at each call outside
    of `jit`.

    Example:
      >>> import jax.numpy as jnp
      >>> from clujax.lora import LoraRule, build_spec
      >>> spec = build_spec({"kernel": jnp.ones((2, 3))}, [LoraRule("kernel", rank=1, alpha=1.0)])
      >>> f = factored(lambda params, x: x @ params["kernel"], spec)
      >>> adapters = {"kernel": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 3))}}
      >>> f({"kernel": jnp.zeros((2, 3))}, adapters, jnp.ones((1, 2)))
      Array([[2., 2., 2.]], dtype=float32)
    """

    def apply(
        base: PyTree, adapters: Adapters, *args: Any, dropout_key: PRNGKeyArray | None = None, **options: Any
    ) -> Any:
        check(adapters, spec)
        check_shapes(base, spec)
        closed, shapes = jax.make_jaxpr(lambda tree: apply_fn(tree, *args, **options), return_shape=True)(base)
        entries = {entry.name: entry for entry in spec}
        inputs = [
            _beside(leaf, adapters[name], entries[name], dropout_key) if name in entries else leaf
            for name, leaf in named(base).items()
        ]
        met: dict[str, int] = {}
        outputs = evaluate(closed.jaxpr, closed.consts, inputs, met)
        for value in outputs:
            if isinstance(value, Beside):
                raise ValueError(f"the function returns the adapted kernel {value.name!r} itself; use lorafy for it.")
        if missed := [name for name in entries if name not in met]:
            raise ValueError(
                f"no input ever met the adapted kernels {shown(missed, 5)}; narrow the rules to those "
                "that the function uses."
            )
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return apply


def _beside(kernel: Array, adapter: dict[str, Array], entry: Adapted, key: PRNGKeyArray | None) -> Beside:
    letters, left, right = lowrank.einsum_letters(adapter["a"], adapter["b"], entry.layout)
    ratio = None
    if entry.magnitude:
        squares = lowrank.merged_filter_sq_norms(kernel, adapter["a"], adapter["b"], entry.scale, entry.layout)
        size = jax.lax.stop_gradient(std_of(squares, 1))
        ratio = (adapter["magnitude"] / jnp.where(size > 0, size, 1.0)).squeeze(entry.layout.fan_in)
    dropped = entry.dropout if key is not None else 0.0
    return Beside(
        kernel=jnp.asarray(kernel),
        a=adapter["a"],
        b=entry.scale * adapter["b"],
        ratio=ratio,
        key=leaf_key(key, entry.name) if dropped else None,
        name=entry.name,
        letters=letters,
        a_letters=left,
        b_letters=right,
        dropout=dropped,
    )
