"""SFR-on as one optax transformation."""

import optax
from jaxtyping import PyTree, ScalarLike

from clujax.transforms.masking import mask_by_state
from clujax.transforms.phased import phased, scale_by_iteration_rate
from clujax.transforms.slow import slow_weights


def sfron(
    inner: optax.GradientTransformation,
    mask: PyTree | None = None,
    max_norm: ScalarLike | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    slow_step: ScalarLike = 1.0,
    slow_every: ScalarLike = 1,
) -> optax.GradientTransformationExtraArgs:
    """Saliency-masked, clipped forget steps and plain remain steps through one shared optimizer, then slow weights.

    Forget: mask, then clip to `max_norm`, then `inner`. Remain: `inner`. The adaptive ascent is in the loss that the caller
    differentiates (`adaptive_coefficients`), so that any model and any parallelism serve.

    Args:
      inner: the shared optimizer (momentum, weight decay, Adam, ...).
      mask: booleans like the parameters, for example `clujax.geometry.ratio_mask`; None moves all.
      max_norm: global norm of the masked forget gradient; None does not clip.
      learning_rate: a number, or a schedule of the iteration, shared by both phases; None when `inner` has its own.
      slow_step: τ of `slow_weights`; 1 keeps no copy.
      slow_every: iterations between outer steps; the repair period gives one a cycle.

    Cost: one `inner` update; memory of `inner`, a byte a weight for the mask, a copy of the weights if τ < 1.
    Source: Huang et al. 2024; phases and order as in the published code.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from clujax.transforms import FORGET, REMAIN, adaptive_coefficients, sfron
      >>> tx = sfron(optax.trace(0.9), max_norm=7.0, learning_rate=0.1)
      >>> def loss(w, x):
      ...     return 0.5 * (x - w) ** 2
      >>> def forget(w, x):
      ...     return -jnp.sum(adaptive_coefficients(loss(w, x), 0.5) * loss(w, x))
      >>> w = jnp.array(0.0)
      >>> state = tx.init(w)
      >>> for phase, grad in [(FORGET, jax.grad(forget)(w, jnp.ones(3))), (REMAIN, jnp.array(0.5))]:
      ...     updates, state = tx.update(grad, state, w, phase=phase)
      ...     w = optax.apply_updates(w, updates)
      >>> round(float(w), 4)
      -0.24
    """
    clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)
    rate = optax.identity() if learning_rate is None else scale_by_iteration_rate(learning_rate)
    masked = clip if mask is None else optax.chain(mask_by_state(mask), clip)
    return optax.chain(phased(inner, forget=masked), rate, slow_weights(slow_step, slow_every))
