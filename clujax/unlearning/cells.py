"""What one method made of one request and seed, kept so that a stopped run does not do it again."""

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clujax.adaptation.method import Outcome
from clujax.errors import CheckpointError
from clujax.training import processes
from clujax.training.workdir import write_bytes, write_json

RECORD, LOGITS = "cell.json", "logits.npz"


class Cell(NamedTuple):
    """One method on one request and seed: its metrics, its gaps to retraining, its run, and all logits behind them."""

    values: dict[str, float]
    gap: dict[str, float] | None
    outcome: Outcome
    cache: Mapping[str, tuple]


def save(directory: pathlib.Path, cell: Cell, digest: str) -> None:
    """Write logits, then the record that makes the cell complete; each whole or not at all.

    Args:
      directory: the cell's own.
      cell: to keep; the network itself stays in its checkpoints.
      digest: of everything that the cell depends on.
    """
    arrays = {f"{side}/logits": logits for side, (logits, _) in cell.cache.items()}
    arrays |= {f"{side}/labels": labels for side, (_, labels) in cell.cache.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(directory / LOGITS, buffer.getvalue())
    outcome = cell.outcome._replace(params=None, stats=None)._asdict()
    record = {"digest": digest, "values": cell.values, "gap": cell.gap, "outcome": outcome}
    write_json(directory / RECORD, json.loads(json.dumps(record, default=_plain)))


def load(directory: pathlib.Path, digest: str) -> Cell | None:
    """The cell that was kept there, without its network; None when there is none, in all processes alike.

    Raises:
      CheckpointError: it belongs to other settings, or its files are damaged.
    """
    if not processes.from_first((directory / RECORD).exists):
        return None
    try:
        record = json.loads((directory / RECORD).read_text())
        with np.load(directory / LOGITS) as arrays:
            sides = {name.partition("/")[0] for name in arrays.files}
            cache = {side: (arrays[f"{side}/logits"], arrays[f"{side}/labels"]) for side in sorted(sides)}
        outcome = record["outcome"] | {"warnings": tuple(record["outcome"]["warnings"])}
        cell = Cell(record["values"], record["gap"], Outcome(**outcome), cache)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{directory} holds a damaged cell ({error}). Delete the folder and run again."
        ) from error
    if record["digest"] != digest:
        raise CheckpointError(f"{directory} holds a cell of other settings. Delete the folder or use another workdir.")
    return cell


def _plain(value: Any) -> Any:
    """A value as JSON: arrays as lists, functions by name."""
    if callable(value):
        return getattr(value, "__qualname__", str(value))
    if isinstance(value, tuple | frozenset | set):
        return list(value)
    return np.asarray(value).tolist()
