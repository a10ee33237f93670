"""NTK forgetting: the weights that the linearised network would reach without the forget rows, in one step."""

import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, PyTree

from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_choice, check_numbers, edited
from clujax.errors import RequestError
from clujax.geometry import inverse_product


def ntk(
    *, ridge: float = 5e-4, scale: float = 1.0, around: str = "trained", iterations: int = 50, max_rows: int = 5000
) -> Method:
    """θ ← θ + scale · (w(D_r) − w(D)), with w(S) = −Jᵀ(JJᵀ + n_S λ)⁻¹(f − Y) of the network linearised at `around`.

    Matrix-free: conjugate gradients on products with J and its transpose; the n C × P Jacobian is never stored.

    Args:
      ridge: λ > 0, published: the weight decay times 0.1 … 1.
      scale: of the step; the published code fits it to the norm of the way walked.
      around: "trained", or "initial" (exact for models linear in their parameters; needs the request's `initial`).
      iterations: of conjugate gradients, for each of the two solves.
      max_rows: refuse larger requests.

    The network is in eval mode; all rows pass through it at once.
    Source: Golatkar et al. 2020b. Cost: 2·`iterations` passes over all rows, twice; memory: activations of all rows.
    """
    settings = dict(locals())
    check_numbers(settings, least={"scale": 0, "iterations": 1, "max_rows": 1})
    check_choice("around", around, ("trained", "initial"))
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; expected a positive number.")

    def prepare(request, key):
        count = len(request.forget["y"]) + len(request.remain["y"])
        if count > max_rows:
            raise RequestError(
                f"NTK forgetting of {count} rows holds all of them at once; raise max_rows={max_rows} if it fits."
            )
        base = request.params if around == "trained" else request.initial
        solver = lineax.CG(rtol=1e-6, atol=1e-6, max_steps=iterations)

        @jax.jit
        def shift(base, x, y):
            outputs = lambda params: request.classifier.apply(params, request.stats, x, train=False)[0]
            return tangent_weights(outputs, base, jax.nn.one_hot(y, request.num_classes), ridge * len(y), solver)

        forget, remain = ((jnp.asarray(rows["x"]), jnp.asarray(rows["y"])) for rows in (request.forget, request.remain))
        every = [jnp.concatenate(pair) for pair in zip(forget, remain, strict=True)]
        kept, whole = shift(base, *remain), shift(base, *every)
        return edited(request, jax.tree.map(lambda p, r, d: p + scale * (r - d), request.params, kept, whole))

    needs = {"forget", "remain"} | ({"initial"} if around == "initial" else set())
    return Method("ntk", prepare, settings, frozenset(needs))


def tangent_weights(outputs, params: PyTree, targets: Array, ridge: float, solver=None) -> PyTree:
    """−Jᵀ(JJᵀ + ridge)⁻¹(f − targets): the change of weights that fits the linearised network to the targets.

    Args:
      outputs: `outputs(params) -> [n, C]`.
      params: where it is linearised.
      targets: [n, C].
      ridge: in all, not per row.
      solver: of lineax; see `clujax.geometry.inverse_product`.
    """
    values, forward = jax.linearize(outputs, params)
    backward = jax.linear_transpose(forward, params)
    coefficients = inverse_product(lambda v: forward(backward(v)[0]), values - targets, damping=ridge, solver=solver)
    return jax.tree.map(jnp.negative, backward(coefficients)[0])
