"""Restrict an update to some of the weights."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from clujax.geometry import check_mask


def mask_updates(
    mask: PyTree | None,
    where: Literal["gradient", "update"] = "gradient",
    restore: bool = False,
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Zero what a mask leaves out, before (`gradient`) or after (`update`) an inner transformation.

    With `where="gradient"` the momentum and weight decay of what follows still move masked weights, as in the published
    SFR-on. With `where="update"` they do not: a masked weight keeps its value to the bit. `restore` also empties the inner
    state (momenta) of masked weights, the masked restore of SalUn.

    Args:
      mask: booleans shaped like the parameters; None keeps all.
      where: before or after `inner`. Without `inner` both zero the updates that pass.
      restore: also zero the parameter-shaped state of `inner` under the mask; needs `where="update"`.
      inner: the transformation to wrap; identity when None.

    Raises:
      ValueError: an unknown `where`, `restore` without `where="update"`, or, at `init`, a mask that does not fit the
        parameters or keeps nothing.

    Cost: one select per weight; a byte per weight for the mask.
    """
    if where not in ("gradient", "update"):
        raise ValueError(f"where is {where!r}; expected 'gradient' or 'update'.")
    if restore and where != "update":
        raise ValueError("restore=True undoes what the inner transformation did; it needs where='update'.")
    inner = optax.with_extra_args_support(inner or optax.identity())
    if mask is None:
        return inner

    def init(params):
        if _checkable(params):
            check_mask(mask, params)
        return inner.init(params)

    def update(updates, state, params=None, **extra):
        if where == "gradient":
            return inner.update(_keep(updates, mask), state, params, **extra)
        updates, state = inner.update(updates, state, params, **extra)
        if restore:
            state = optax.tree_utils.tree_map_params(
                inner, _where, state, mask, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode)
            )
        return _keep(updates, mask), state

    return optax.GradientTransformationExtraArgs(init, update)


class MaskState(NamedTuple):
    """The mask in force, booleans like the parameters."""

    mask: Any


def mask_by_state(mask: PyTree | None = None) -> optax.GradientTransformationExtraArgs:
    """Zero what the mask in the state leaves out; where `mask_updates` holds its mask as a constant of the program.

    In the state it is laid out over devices as the parameters are, and one program serves many masks: put another one in
    between steps, `state._replace(mask=mask)`.

    Args:
      mask: what the state begins with, booleans like the parameters; None begins with a mask that keeps all.

    Raises:
      ValueError: at `init`, a mask that does not fit the parameters or keeps nothing.

    Cost: one select per weight; a byte per weight for the mask.
    """

    def init(params):
        if mask is None:
            return MaskState(jax.tree.map(lambda leaf: jnp.ones_like(leaf, dtype=bool), params))
        if not jax.tree.leaves(params, is_leaf=_hidden):
            return MaskState(params)
        if _checkable(params):
            check_mask(mask, params)
        own = lambda leaf, keep: leaf if _hidden(leaf) else jnp.asarray(keep)
        return MaskState(jax.tree.map(own, params, mask, is_leaf=_hidden))

    def update(updates, state, params=None, **extra):
        del params, extra
        return _keep(updates, state.mask), state

    return optax.GradientTransformationExtraArgs(init, update)


def _checkable(params):
    """Whether init was given the parameters: not an empty tree, nor the stand-in of optax's tree_map_params."""
    leaves = jax.tree.leaves(params, is_leaf=_hidden)
    return bool(leaves) and not any(map(_hidden, leaves))


def _keep(updates, mask):
    return jax.tree.map(_where, updates, mask, is_leaf=_hidden)


def _where(leaf, keep):
    return leaf if _hidden(leaf) else jnp.where(keep, leaf, jnp.zeros((), leaf.dtype))


def _hidden(leaf):
    """What optax.masked and multi_transform put in the place of a leaf that is not this transform's."""
    return isinstance(leaf, optax.MaskedNode)
