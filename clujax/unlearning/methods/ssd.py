"""SSD: dampen the weights that matter far more to the forget rows than to all rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from clujax.adaptation.importance import row_diagonal
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_choice, check_numbers, edited
from clujax.geometry import density


def ssd(*, selection: float = 10.0, dampening: float = 1.0, fisher: str = "batch", batch_size: int = 128) -> Method:
    """θ ← θ · min(λ I_D / I_f, 1) where I_f > α I_D; no training, and no other weight moves.

    Args:
      selection: α ≥ 0; larger selects fewer weights (published: 10; 5 for ViT on classes, 25 on sub-classes).
      dampening: λ ≥ 0; smaller dampens more.
      fisher: importances I as mean squared gradients of batches ("batch", published; their scale depends on `batch_size`) or
        of rows ("example").

    Source: Foster et al. 2024. Cost: one gradient per row of all rows, and of the forget rows again.
    """
    settings = dict(locals())
    check_numbers(settings, least={"selection": 0, "dampening": 0})
    check_choice("fisher", fisher, ("batch", "example"))

    def prepare(request, key):
        every = {
            name: np.concatenate([np.asarray(request.forget[name]), np.asarray(request.remain[name])]) for name in "xy"
        }
        importance = partial(row_diagonal, request, kind=fisher, batch_size=batch_size)
        all_key, forget_key = jax.random.split(key)
        whole, forget = importance(every, key=all_key), importance(request.forget, key=forget_key)
        chosen = jax.tree.map(lambda a, f: f > selection * a, whole, forget)
        return edited(request, ssd_dampen(request.params, whole, forget, selection, dampening), density=density(chosen))

    return Method("ssd", prepare, settings)


def ssd_dampen(params: PyTree, whole: PyTree, forget: PyTree, selection: float, dampening: float) -> PyTree:
    """The edit itself, on importances of all rows and of the forget rows; `selection` = ∞ changes nothing."""

    def edit(leaf, all_rows, forget_rows):
        factor = jnp.minimum(dampening * all_rows / jnp.maximum(forget_rows, jnp.finfo(jnp.float32).tiny), 1.0)
        return jnp.where(forget_rows > selection * all_rows, leaf * factor, leaf).astype(leaf.dtype)

    return jax.tree.map(edit, params, whole, forget)
