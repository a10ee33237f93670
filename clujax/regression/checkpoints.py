"""A fit that survives kills: its state goes to a checkpoint after every growth round."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from clujax.regression.fit import FitOptions, FitState, LabRbfModel, fit_lab_rbf
from clujax.training.checkpoint import Checkpoints


def fit_with_checkpoints(
    directory: pathlib.Path,
    key: PRNGKeyArray,
    x: np.ndarray,
    y: np.ndarray,
    options: FitOptions,
    **more: Any,
) -> tuple[LabRbfModel, FitState]:
    """`fit_lab_rbf` that goes on from the newest whole checkpoint in `directory` and equals an unbroken fit.

    Args:
        directory: of this fit alone; the same key, rows and options must come again.
        key: as `fit_lab_rbf` takes it.
        x: likewise.
        y: likewise.
        options: likewise.
        **more: its keyword arguments but `state`; `callback` is called after each save.

    Raises:
        CheckpointError: a checkpoint cannot be written, or those here are of another fit.
    """
    most = min(options.n_max, len(x))
    told = more.pop("callback", None)
    like = {"support": np.zeros(most, np.int64), "theta": np.zeros((most, x.shape[1]), options.dtype)}

    with Checkpoints(directory) as kept:
        found = kept.restore(like)
        if found is not None:
            round_, arrays, extra = found
            n = extra["n"]
            support, theta = (np.asarray(arrays[name])[:n] for name in ("support", "theta"))
            more["state"] = FitState(support, theta, round_, extra["history"])

        def save(state: FitState) -> None:
            n = len(state.support)
            # One shape for all rounds: a reader must know it beforehand.
            full = {name: np.array(blank) for name, blank in like.items()}
            full["support"][:n], full["theta"][:n] = state.support, state.theta
            kept.save(state.round, full, {"n": n, "history": state.history})
            if told is not None:
                told(state)

        return fit_lab_rbf(key, x, y, options, callback=save, **more)
