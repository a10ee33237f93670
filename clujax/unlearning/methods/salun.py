"""SalUn: random labels, moving only the weights that matter most to the forget rows."""

import jax
import jax.numpy as jnp

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import Method
from clujax.data import padded
from clujax.geometry import density, top_fraction_mask
from clujax.transforms import mask_updates
from clujax.unlearning.methods.random_label import check_random_labels, relabelling_plan


def salun(
    *,
    fraction: float = 0.5,
    labels: str = "wrong",
    redraw: bool = False,
    order: str = "shuffled",
    epochs: float = 5,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Random label with a saliency mask: the largest |Σ ∇ loss(forget)|, ranked over all parameters together.

    Weights that the mask leaves out keep their value to the bit: neither momentum nor weight decay moves them.

    Args:
      fraction: τ in (0, 1]; exactly ⌊τ P⌋ weights move, of equals the first.
      labels, redraw, order: as for `random_label`.

    Source: Fan et al. 2024 (SalUn), with the masked restore of its current code. Cost: one pass over the forget rows,
    then one gradient per step; memory: a byte per weight for the mask.
    """
    settings = dict(locals())
    check_random_labels(settings)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the weights in (0, 1].")
    training = {name: value for name, value in settings.items() if name != "fraction"}

    def prepare(request, key):
        mask = top_fraction_mask(jax.tree.map(abs, summed_gradient(request, batch_size)), fraction)
        plan = relabelling_plan(request, key, wrap=lambda tx: restored(tx, mask), **training)
        return plan._replace(facts={"density": density(mask)})

    return Method("salun", prepare, settings)


def summed_gradient(request, batch_size):
    """Σ over batches of the gradient of the mean cross-entropy of the forget rows, in eval mode; float32 or wider."""

    @jax.jit
    def add(total, params, batch):
        def loss(params):
            logits, _ = request.classifier.apply(params, request.stats, batch["x"], train=False)
            return (cross_entropy(logits, batch["y"]) * batch["weight"]).sum() / batch["weight"].sum()

        return jax.tree.map(jnp.add, total, jax.grad(loss)(params))

    wide = lambda leaf: jnp.zeros_like(leaf, dtype=jnp.promote_types(leaf.dtype, jnp.float32))
    total = jax.tree.map(wide, request.params)
    for batch in padded({"x": request.forget["x"], "y": request.forget["y"]}, batch_size):
        total = add(total, request.params, batch)
    return total


def restored(tx, mask):
    """`tx` on the masked weights only."""
    return mask_updates(mask, inner=tx, where="update", restore=True)
