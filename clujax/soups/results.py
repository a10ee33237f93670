"""What a run of soups writes: the comparison and its pools as JSON, the mixing weights of the first seed as arrays."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clujax.adaptation.cells import summary
from clujax.soups.settings import Method


def record(
    config: ConfigDict, methods: Mapping[str, Method], cells: Mapping[str, Sequence[dict]], pools: Sequence[dict]
) -> dict[str, Any]:
    """Means and standard deviations over seeds of every method, and of the mean model of the pool."""
    numbers = ("held/accuracy", "held/nll", "test/accuracy", "test/nll")
    mean = [{name: float(np.mean([each[name] for each in pool["members"]])) for name in numbers} for pool in pools]
    rows = [
        {
            "key": key,
            "label": methods[key].label,
            "kind": methods[key].kind,
            "settings": dict(config.methods[key]),
            **summary([each["values"] for each in found]),
            "used": float(np.mean([each["used"] for each in found])),
            "seconds": float(np.median([each["seconds"] for each in found])),
            "live_bytes": found[0]["live_bytes"],
            "losses": found[0]["losses"],
        }
        for key, found in cells.items()
    ]
    return {
        "set": config.data.name,
        "held_rows": config.data.held_rows,
        "batches": config.data.held_rows // config.learn.batch_size,
        "count": len(pools[0]["members"]),
        "members": pools[0]["members"],
        "mean": summary(mean),
        "one_basin": [pool["one_basin"] for pool in pools],
        "methods": rows,
    }


def gather_evidence(workdir: pathlib.Path, seed: int, names: Sequence[str]) -> None:
    """The mixing weights [K, leaves] of all methods on one seed, and the leaves' names, in one file beside the result."""
    arrays = {}
    for name in names:
        with np.load(workdir / "stages" / f"seed{seed}" / name / "evidence.npz") as found:
            arrays |= {f"weights/{name}": found["weights"], "leaves": found["leaves"]}
    np.savez_compressed(workdir / "evidence_soups.npz", **arrays)
