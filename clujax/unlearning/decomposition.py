"""A probe of the gradient's parts along a run: what the forget and remain rows ask of the weights, and how they agree."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax
import numpy as np

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.request import Request
from clujax.geometry import Parts, gnvp, inverse_product, report


def parts_probe(request: Request, *, rows: int = 256, damping: float = 0.1, iterations: int = 15) -> Callable:
    """`probe(params, stats) -> {name: number}`: losses, and norms and cosines of the gradient's parts.

    Curvatures are Gauss–Newton matrices, positive semi-definite away from a minimum too, on a fixed sample of rows in eval
    mode. The parts are those of `clujax.geometry.Parts`.

    Cost: about 4·`iterations` gradients on `rows` rows a call.
    Source: Huang et al. 2024, Propositions 1 and 2.
    """
    samples = {}
    for name, part in (("forget", request.forget), ("remain", request.remain)):
        chosen = np.random.default_rng(0).permutation(len(part["y"]))[:rows]
        samples[name] = {"x": jnp.asarray(part["x"][chosen]), "y": jnp.asarray(part["y"][chosen])}
    solver = lineax.CG(rtol=1e-3, atol=1e-6, max_steps=iterations)

    @jax.jit
    def probe(params, stats, samples):
        def outputs(name):
            return lambda p: request.classifier.apply(p, stats, samples[name]["x"], train=False)[0]

        def mean_loss(name):
            return lambda logits: jnp.mean(cross_entropy(logits, samples[name]["y"]))

        def loss_and_gradient(name):
            return jax.value_and_grad(lambda p: mean_loss(name)(outputs(name)(p)))(params)

        forget_loss, forget_gradient = loss_and_gradient("forget")
        remain_loss, remain = loss_and_gradient("remain")
        forget = jax.tree.map(jnp.negative, forget_gradient)
        newton = inverse_product(
            lambda v: gnvp(outputs("remain"), mean_loss("remain"), params, v), forget, damping=damping, solver=solver
        )
        salient = gnvp(outputs("forget"), mean_loss("forget"), params, newton)
        losses = {"forget_loss": forget_loss, "remain_loss": remain_loss}
        return losses | report(Parts(forget, remain, salient, newton))

    return lambda params, stats: probe(params, stats, samples)
