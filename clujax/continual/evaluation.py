"""The outputs of a learner on all rows of a stream, kept on disk for those that are read beside them."""

import io
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clujax.continual.method import Learner
from clujax.continual.metrics import Groups, Outputs, class_accuracies, distances, measure
from clujax.data import padded
from clujax.errors import CheckpointError
from clujax.training.workdir import write_bytes


def outputs_of(logits: Callable, learner: Learner, train: Any, test: Any, batch_size: int = 1000) -> Outputs:
    """Eval-mode logits of a learner on all training and test inputs, in batches of one size.

    Args:
      logits: compiled `logits(learner, inputs) -> [B, C]`, see `clujax.continual.method.predictor`.
    """
    learner = learner._replace(memory=())  # no part of a prediction, and large

    def on(x):
        parts = []
        for batch in padded({"x": x}, batch_size):
            parts.append(np.asarray(logits(learner, batch["x"]))[np.asarray(batch["weight"]) > 0])
        return np.concatenate(parts)

    return Outputs(on(train), on(test))


def evaluated(
    outputs: Outputs,
    group: Groups,
    labels: Any,
    test_labels: Any,
    reference: Outputs,
    *,
    tasks: Sequence[Sequence[int]] = (),
) -> dict[str, float]:
    """All metrics of one network after one request: of groups and classes, and its distances to the oracle.

    Args:
      reference: the oracle's outputs; the oracle is its own.
    """
    rows = {"labels": np.asarray(labels), "test_labels": np.asarray(test_labels), "tasks": tasks}
    values, ideal = (measure(each, group, reference=reference, **rows) for each in (outputs, reference))
    return values | distances(values, ideal) | class_accuracies(outputs, test_labels)


def save_outputs(path: pathlib.Path, outputs: Outputs) -> None:
    """Write outputs whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **outputs._asdict())
    write_bytes(path, buffer.getvalue())


def load_outputs(path: pathlib.Path) -> Outputs:
    """Read what `save_outputs` wrote.

    Raises:
      CheckpointError: it is not there or not whole.
    """
    try:
        with np.load(path) as arrays:
            return Outputs(arrays["train"], arrays["test"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}, the oracle's outputs, cannot be read ({error}). Delete the oracle's folder beside it and run again."
        ) from error
