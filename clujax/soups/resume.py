"""The state of a soup between blocks, as a checkpoint."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from clujax.errors import CheckpointError
from clujax.geometry.mixing import wide_dtype
from clujax.training.checkpoint import Checkpoints


class Progress(NamedTuple):
    """Where a soup is before block number `block`: θ (None before the first), weights and coefficients [K, L], records."""

    theta: PyTree | None
    weights: np.ndarray
    alpha: np.ndarray
    block: int
    history: list[dict]


def save(checkpoints: Checkpoints, state: Progress, run: dict) -> None:
    """Write the state; `run` says whose it is.

    Raises:
        CheckpointError: it could not be written.
    """
    checkpoints.save(
        state.block, _arrays(state.theta, state.weights, state.alpha), {"run": run, "history": state.history}
    )


def restore(checkpoints: Checkpoints, begin: Progress, struct: PyTree, run: dict) -> Progress:
    """The newest state, or `begin`.

    Raises:
        CheckpointError: it is of another run.
    """
    theta = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)), struct)
    found = checkpoints.restore(_arrays(theta, begin.weights, begin.alpha))
    if found is None:
        return begin
    block, arrays, extra = found
    if extra.get("run") != run:
        raise CheckpointError(
            f"the checkpoints in {checkpoints.directory} are of another soup ({extra.get('run')}); expected {run}. "
            "Give another directory"
        )
    weights, alpha = (np.asarray(arrays[name]).view(np.float64) for name in ("weights", "alpha"))
    return Progress(arrays["theta"], weights, alpha, block, extra["history"])


def _arrays(theta: PyTree, weights: np.ndarray, alpha: np.ndarray) -> dict:
    # Weights are float64, which jax does not have by default: kept to the bit as pairs of 32.
    halves = lambda values: np.ascontiguousarray(values, np.float64).view(np.uint32)
    return {"theta": theta, "weights": halves(weights), "alpha": halves(alpha)}
