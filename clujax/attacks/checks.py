"""What every attack asks of its rows before any work; shapes only, so that traced arrays pass."""

import numpy as np

from clujax.errors import RequestError


def check_rows(**sets) -> None:
    """Each named set of rows holds at least one.

    Raises:
      RequestError: names the empty set: an attack compares two kinds of rows and needs both.
    """
    for name, rows in sets.items():
        if rows.ndim < 1 or rows.shape[0] == 0:
            raise RequestError(f"{name} has shape {rows.shape}: an attack needs at least one row of each kind.")


def check_classes(**sets) -> None:
    """Logits `[N, C]`, none empty, all of as many classes.

    Raises:
      RequestError: names the shapes.
    """
    check_rows(**sets)
    shapes = {name: rows.shape for name, rows in sets.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[-1] for shape in shapes.values()}) > 1:
        raise RequestError(f"expected logits [N, C] with one C for all sets; got {shapes}.")


def check_labels(rows, labels, *, name: str = "labels") -> None:
    """One integer label per row; `rows` is given with any class axis taken off.

    Raises:
      RequestError: names the shapes.
    """
    if tuple(rows) != labels.shape:
        raise RequestError(f"{name} has shape {labels.shape}; expected one per row, {tuple(rows)}.")


def check_probabilities(**sets) -> None:
    """Rows are probability vectors: none negative, sums within 1e-3 of 1.

    Raises:
      RequestError: names the set and its worst row.
    """
    for name, rows in sets.items():
        sums = np.sum(np.asarray(rows, np.float64), -1)
        # `not <=` so that NaN is caught too.
        bad = ~(np.abs(sums - 1) <= 1e-3) | (np.min(rows, -1) < 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise RequestError(
                f"{name}: row {row} sums to {sums[row]:.4g} with least entry {np.min(rows[row]):.3g}; expected"
                " probability vectors, softmax(logits)."
            )
