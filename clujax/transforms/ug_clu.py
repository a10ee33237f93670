"""Learning and forgetting as one optax transformation: UG-CLU."""

import optax
from jaxtyping import PyTree, ScalarLike

from clujax.transforms.masking import mask_by_state
from clujax.transforms.phased import phased, scale_by_iteration_rate
from clujax.transforms.slow import slow_weights


def ug_clu(
    inner: optax.GradientTransformation,
    *,
    max_norm: ScalarLike | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    slow_step: ScalarLike = 1.0,
    slow_every: ScalarLike = 1,
    mask_forget: bool = True,
    mask_learn: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Forget and learn steps, each masked and clipped, and plain remain steps, through one optimizer; then slow weights.

    `update(gradient, state, params, phase=FORGET | LEARN | REMAIN)`; `learn_gradient=` beside a forget gradient takes both in
    one step, each masked and clipped for itself, so that neither drowns the other. Masks are in the state, since a stream of
    requests has one for each: `with_masks(state, forget=..., learn=...)`.

    Without learn steps it is `sfron`; without forget steps, clipped replay.

    Args:
      inner: the shared optimizer (momentum, weight decay, Adam, ...).
      max_norm: global norm of a masked forget or learn gradient; None does not clip.
      learning_rate: a number, or a schedule of the iteration (remain steps so far); None when `inner` has its own.
      slow_step: τ of `slow_weights`; 1 keeps no copy.
      slow_every: iterations between outer steps.
      mask_forget, mask_learn: whether that side has a mask; without one its steps cost no pass over it.

    Cost: one `inner` update; memory of `inner`, a byte a weight for each mask, a copy of the weights if τ < 1.
    Source: Huang et al. 2025 (UG-CLU), the fast–slow update; order of mask and clipping as in SFR-on.

    Example:
      >>> import jax.numpy as jnp
      >>> from clujax.transforms import FORGET, LEARN, REMAIN
      >>> tx = ug_clu(optax.identity(), max_norm=1.0, learning_rate=0.5)
      >>> w = jnp.array([0.0, 0.0])
      >>> state = with_masks(tx.init(w), forget=jnp.array([True, False]))
      >>> updates, state = tx.update(jnp.array([3.0, 4.0]), state, w, phase=FORGET, learn_gradient=jnp.array([0.0, -0.5]))
      >>> updates
      Array([-0.5 ,  0.25], dtype=float32)
    """
    clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)
    rate = optax.identity() if learning_rate is None else scale_by_iteration_rate(learning_rate)
    forget, learn = (optax.chain(mask_by_state(), clip) if masked else clip for masked in (mask_forget, mask_learn))
    return optax.chain(phased(inner, forget=forget, learn=learn), rate, slow_weights(slow_step, slow_every))


def with_masks(state: PyTree, *, forget: PyTree | None = None, learn: PyTree | None = None) -> PyTree:
    """The state of `ug_clu` with other masks (booleans like the parameters); None leaves the one that is there."""
    phases, *rest = state
    for name, mask in (("forget", forget), ("learn", learn)):
        if mask is not None:
            held, *clip = getattr(phases, name)
            phases = phases._replace(**{name: (held._replace(mask=mask), *clip)})
    return (phases, *rest)
