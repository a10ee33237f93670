"""Whether a pool lies in one basin, and what each model gives to a soup."""

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from clujax.geometry.mixing import wide
from clujax.soups.batches import Batches, repeatable
from clujax.soups.descent import LossFn, held_out_loss, rows_of
from clujax.soups.directions import block_directions, dense, raw
from clujax.soups.pools import Pool, load_checked
from clujax.soups.soup import Soup, dtypes_of


class BasinWarning(UserWarning):
    """The mean of a pool is worse than its models are on average: they are probably not in one basin."""


def check_basin(uniform: float, scores: Sequence[float], unit: str = "") -> bool:
    """Whether the uniform soup's held-out score (higher is better) reaches the models' mean; warns with numbers if not."""
    mean, best = float(np.mean(scores)), float(np.max(scores))
    if uniform < mean:
        warnings.warn(
            f"models probably not in one basin: their uniform soup scores {uniform:.4g}{unit} on held-out data, the models "
            f"{mean:.4g}{unit} on average (best {best:.4g}{unit}). A greedy soup may keep one model only; fine-tune from "
            "one start, with lower learning rates or fewer steps",
            BasinWarning,
            stacklevel=2,
        )
    return uniform >= mean


class Contributions(NamedTuple):
    """How the held-out loss would rise without a model, its weight given to the others in proportion.

    Attributes:
        first_order: [K] by the inner products of one gradient; near a minimum they vanish.
        exact: [K] by an evaluation each; nan where not asked for, or where a weight is 1.
    """

    first_order: Float[np.ndarray, " K"]
    exact: Float[np.ndarray, " K"]


def leave_one_out(pool: Pool, soup: Soup, loss_fn: LossFn, batches: Batches, *, exact: bool = True) -> Contributions:
    """Each model's contribution to a soup: L(θ without k) − L(θ), θ without k = θ − Σ_l w_k^l/(1 − w_k^l)·(θ_k^l − θ^l).

    One gradient over the batches, then one streamed model at a time: an inner product, and with `exact` an evaluation.

    Args:
        pool: the models of the soup.
        soup: its params and weights.
        loss_fn: `loss_fn(params, batch, key) -> (loss, aux)`.
        batches: held-out batches.
        exact: evaluate the loss without each model too.
    """
    held, dtypes, groups = repeatable(batches, len(pool) + 2), dtypes_of(pool), soup.groups
    span, loss_of = dense(groups), held_out_loss(loss_fn, dtypes)
    share = np.array([rows_of(batch) for batch in held], float)
    parts = ((weight, _gradient(loss_fn, soup.params, batch)) for weight, batch in zip(share / share.sum(), held))
    total = functools.reduce(_added, (jax.tree.map(lambda g, w=weight: w * g, part) for weight, part in parts))
    center = jax.tree.map(wide, soup.params)
    before = loss_of(center, held) if exact else np.nan
    first, found = np.full((2, len(pool)), np.nan)
    for k in range(len(pool)):
        w = soup.weights[k]
        if np.any(np.abs(1 - w) < 1e-3):
            continue
        directions, scale = block_directions(center, [load_checked(pool, k)], 1, groups, raw)
        step = jnp.asarray(-(w / (1 - w))[None], scale.dtype) * (scale > 0)
        first[k] = float(jnp.sum(span.project(total, directions) * step))
        if exact:
            found[k] = loss_of(span.mix(center, directions, step), held) - before
    return Contributions(first, found)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(loss_fn, params, batch):
    gradient, _ = jax.grad(loss_fn, has_aux=True, allow_int=True)(params, batch, jax.random.key(0))
    return jax.tree.map(lambda g: jnp.zeros(()) if g.dtype == jax.dtypes.float0 else wide(g), gradient)


def _added(total, part):
    return jax.tree.map(jnp.add, total, part)
