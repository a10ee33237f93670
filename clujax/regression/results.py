"""What a regression run writes: the comparison as JSON, the evidence for its figures as arrays."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clujax.regression.fit import FitState, LabRbfModel
from clujax.regression.report import relevance

LABELS = {
    "lab": "LAB-RBF",
    "krr_rbf": "KRR, RBF",
    "krr_laplace": "KRR, Laplace",
    "svr": "SVR",
    "resnet": "residual network",
    "ard": "bandwidths per feature",
    "scalar": "one bandwidth",
    "local_scalar": "one bandwidth a point",
}
METRICS = {
    "r2": ("R²", "", "higher"),
    "rmse": ("RMSE", "target", "lower"),
    "mae": ("MAE", "target", "lower"),
    "accuracy": ("accuracy", "%", "higher"),
    "support": ("rows kept", "", "lower"),
}


def record(task: Any, rows: Any, cells: Mapping[str, Sequence[dict]], name: str) -> dict[str, Any]:
    """The comparison over seeds: mean and standard deviation of every metric of every method."""
    methods = []
    for key, found in cells.items():
        values = {metric: [float(each["values"][metric]) for each in found] for metric in found[0]["values"]}
        methods.append(
            {
                "key": key,
                "label": LABELS[key],
                "values": {metric: float(np.mean(each)) for metric, each in values.items()},
                "std": {metric: float(np.std(each, ddof=1)) for metric, each in values.items() if len(each) > 1},
                "seconds": float(np.mean([each["seconds"] for each in found])),
                "settings": [each["settings"] for each in found],
                "warnings": sorted({warning for each in found for warning in each["warnings"]}),
            }
        )
    metrics = [
        {"key": key, "label": METRICS[key][0], "unit": METRICS[key][1], "direction": METRICS[key][2]}
        for key in METRICS
        if key in methods[0]["values"]
    ]
    return {"set": name, "target": task.target, "features": list(task.features), "classes": list(task.classes),
            "num_train": len(rows.x), "num_test": len(rows.new), "metrics": metrics, "methods": methods,
            "report": cells["lab"][0]["report"], "history": cells["lab"][0]["history"]}  # fmt: skip


def write_evidence(
    file: pathlib.Path,
    task: Any,
    rows: Any,
    model: LabRbfModel,
    state: FitState,
    prediction: np.ndarray,
    chosen: tuple[str, ...],
) -> None:
    """Arrays behind the figures of one fit: predictions, support, bandwidths, relevance, the two features to show."""
    weight = relevance(model)
    two = [task.features.index(name) for name in chosen] if chosen else np.sort(np.argsort(-weight)[:2]).tolist()
    shown = np.random.default_rng(0).permutation(len(rows.x))[:2000]
    pair = (two * 2)[:2]
    arrays = {
        "truth": rows.truth,
        "prediction": prediction,
        "theta": np.asarray(model.theta),
        "coef": np.asarray(model.coef),
        "support_target": rows.y[state.support],
        "relevance": weight,
        "pair": np.array(pair),
        "support_pair": rows.x[state.support][:, pair],
        "theta_pair": np.asarray(model.theta)[:, pair] / np.asarray(model.x_scaling.half)[pair],
        "rows_pair": rows.x[shown][:, pair],
        "rows_target": rows.y[shown],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)
