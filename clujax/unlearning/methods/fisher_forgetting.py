"""Fisher forgetting: noise on every weight, the larger the less the remaining rows depend on it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.importance import row_diagonal
from clujax.adaptation.method import Method
from clujax.adaptation.plans import check_choice, check_numbers, edited
from clujax.adaptation.request import whole_classes
from clujax.unlearning.heads import head_of, with_head


def fisher_forgetting(
    *, strength: float = 1e-7, form: str = "golatkar", reset_class: bool = True, max_rows: int | None = 2000
) -> Method:
    """Draw θ from a Gaussian around the original with a variance that falls with the Fisher of the remaining rows.

    Args:
      strength: α ≥ 0; its useful window is narrow (published 1e-9 to 3e-6) and moves with the network.
      form: "golatkar": the exact diagonal Σ_y p_y (∂ℓ_y)², variance α min(1/H, 1e3) (1e2 on the last layer) averaged over a
        kernel's inputs, tenfold on the last layer and on vectors; "empirical": (∂ log p_y)² of the given labels, deviation
        min(√(α/F), 1e-3), tenfold on the last layer.
      reset_class: for requests of whole classes (and "golatkar") also draw their columns of the last layer anew, with mean 0
        and variance 1e-4.
      max_rows: remaining rows that the Fisher is taken over, drawn at random; None takes all.

    α = 0 is the identity, but for the reset. Gradients are of single rows; the published code squares those of batches of 32.
    Source: Golatkar et al. 2020. Cost: C gradients per row for "golatkar", one for "empirical".
    """
    settings = dict(locals())
    check_numbers(settings, least={"strength": 0, "max_rows": 1})
    check_choice("form", form, ("golatkar", "empirical"))

    def prepare(request, key):
        rows_key, fisher_key, noise_key, reset_key = jax.random.split(key, 4)
        head = request.classifier.head
        whole = form == "golatkar" and reset_class and bool(head) and whole_classes(request)
        if whole:
            head_of(request.params, head)  # refuses a wrong path before the work
        chosen = np.asarray(jax.random.permutation(rows_key, len(request.remain["y"])))[:max_rows]
        rows = {name: np.asarray(request.remain[name])[chosen] for name in "xy"}
        kind = "exact" if form == "golatkar" else "example"
        fisher = row_diagonal(request, rows, kind=kind, key=fisher_key)
        params = add_noise(noise_key, request.params, noise_deviation(fisher, strength, form=form, head=head))
        if whole:
            matrix = head_of(params, head)
            noise = 1e-2 * jax.random.normal(reset_key, matrix.shape, matrix.dtype)
            gone = np.isin(np.arange(matrix.shape[1]), np.asarray(request.forget["y"]))
            params = with_head(params, head, jnp.where(gone, noise, matrix))
        return edited(request, params)

    return Method("fisher_forgetting", prepare, settings)


def noise_deviation(fisher: PyTree, strength: float, *, form: str, head: tuple[str, ...] = ()) -> PyTree:
    """Standard deviation of each weight's noise from a Fisher diagonal of the remaining rows; 0 for `strength` 0.

    Kernels are [..., inputs, outputs]; `head` is the path of the last layer, () when it is not known.
    """

    def is_last(path):
        return bool(head) and tuple(getattr(part, "key", None) for part in path)[: len(head)] == tuple(head)

    def empirical(path, leaf):
        deviation = jnp.minimum(jnp.sqrt(strength / jnp.maximum(leaf, 1e-30)), 1e-3)
        return deviation * (10.0 if is_last(path) else 1.0)

    def golatkar(path, leaf):
        last = is_last(path)
        variance = strength * jnp.minimum(1 / (leaf + 1e-8), 1e2 if last else 1e3)
        if leaf.ndim > 1:
            variance = jnp.broadcast_to(variance.mean(-2, keepdims=True), leaf.shape)
        return jnp.sqrt(variance * (10.0 if last or leaf.ndim <= 1 else 1.0))

    return jax.tree_util.tree_map_with_path(empirical if form == "empirical" else golatkar, fisher)


def add_noise(key: PRNGKeyArray, params: PyTree, deviation: PyTree) -> PyTree:
    """θ + deviation · N(0, 1), each leaf from its own key."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        (leaf + scale * jax.random.normal(k, leaf.shape, scale.dtype)).astype(leaf.dtype)
        for k, leaf, scale in zip(keys, leaves, structure.flatten_up_to(deviation), strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
