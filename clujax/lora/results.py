"""What a run of adapters writes: the comparison as JSON, the loss slices of its first seed as arrays."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clujax.adaptation.cells import summary


def record(
    config: ConfigDict, subject: Any, labels: Mapping[str, str], cells: Mapping[str, Sequence[dict]]
) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every metric of every method."""
    methods = []
    for key, found in cells.items():
        methods.append(
            {
                "key": key,
                "label": labels[key],
                "settings": dict(config.methods[key]),
                **summary([each["values"] for each in found]),
                "seconds_per_step": float(np.median([each["step_seconds"] for each in found])),
                "temp_bytes": found[0]["temp_bytes"],
                "trained": found[0]["trained"],
                "steps": found[0]["steps"],
                "history": found[0]["history"],
            }
        )
    return {"task": config.task, "set": config.data.name, "pretrained": subject.pretrained,
            "num_train": subject.num_train, "tests": list(subject.tests), "taus": list(config.measure.taus),
            "methods": methods}  # fmt: skip


def gather_evidence(workdir: pathlib.Path, config: ConfigDict, names: Sequence[str]) -> None:
    """The slices of all methods on the first seed in one file beside the result."""
    arrays = {}
    for name in names:
        with np.load(workdir / "stages" / f"seed{config.seeds[0]}" / name / "evidence.npz") as found:
            arrays |= {f"{name}/{part}": found[part] for part in found.files}
    np.savez_compressed(workdir / "evidence_lora.npz", **arrays)
