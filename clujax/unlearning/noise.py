"""What cannot be told from chance: how far networks retrained with other seeds lie from the retrained reference."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clujax.unlearning.intervals import noise_ellipse
from clujax.unlearning.metrics import METRICS

X, Y = "TA", "MIA"
COLLAPSE_POINTS, COLLAPSE_AUC = 5.0, 0.3


def shift(key: str, values: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Size of a metric's distance to what retraining has: the gap, or the distance to the ideal where that is a number."""
    ideal = next(metric.ideal for metric in METRICS if metric.key == key)
    return abs(values[key] - (reference[key] if ideal == "retrain" else ideal))


def noise_record(models: Sequence[Mapping[str, float]], reference: Mapping[str, float]) -> dict[str, Any]:
    """The noise of retraining for one request and seed.

    Args:
      models: metrics of further retrained networks, each compared with the reference.
      reference: metrics of the retrained network that methods are compared with.

    Returns:
      `shifts`: metric -> distances of all models to the reference; `points`: their (test accuracy, membership), the
      reference first.
    """
    keys = [metric.key for metric in METRICS if metric.group != "cost"]
    shifts = {key: [shift(key, each, reference) for each in models] for key in keys if all(key in m for m in models)}
    return {"shifts": shifts, "points": [[each[X], each[Y]] for each in (reference, *models)]}


def pooled(records: Sequence[Mapping[str, Any]], level: float = 0.95) -> dict[str, Any]:
    """The records of all seeds as one: mean distance, the distance that `level` of the networks stay below, the ellipse.

    Points of each seed are taken about that seed's mean, so that the ellipse shows retraining and not the choice of rows.
    """
    keys = [key for key in records[0]["shifts"] if all(key in record["shifts"] for record in records)]
    every = {key: np.concatenate([record["shifts"][key] for record in records]) for key in keys}
    points = [np.array(record["points"]) for record in records]
    grand = np.concatenate(points).mean(0)
    about = np.concatenate([part - part.mean(0) + grand for part in points])
    centre, axes = noise_ellipse(about)
    return {
        "floor": {key: float(values.mean()) for key, values in every.items()},
        "limit": {key: float(np.quantile(values, level)) for key, values in every.items()},
        "models": len(records[0]["points"]) - 1,
        "ellipse": {
            "x": X,
            "y": Y,
            "centre": np.asarray(centre).tolist(),
            "axes": np.asarray(axes).tolist(),
            "points": about.tolist(),
        },
    }


def larger_than_noise(
    group: Sequence[Mapping[str, float]],
    references: Sequence[Mapping[str, float]],
    limit: Mapping[str, float],
    least: Mapping[str, float] | None = None,
) -> list[str]:
    """Metrics whose mean distance over seeds is larger than that of 95 % of retrained networks.

    Args:
      group, references: metrics of the method and of the retrained network, one a seed.
      limit: of `pooled`.
      least: metric -> the weight of one row, below which a distance says nothing even where retraining never varies.
    """
    found, least = [], least or {}
    for key, most in limit.items():
        if all(key in values for values in group):
            mean = np.mean([shift(key, values, reference) for values, reference in zip(group, references, strict=True)])
            if mean > most + 1e-9 and mean >= least.get(key, 0.0) - 1e-9:
                found.append(key)
    return found


def collapse(values: Sequence[Mapping[str, float]], references: Sequence[Mapping[str, float]]) -> list[str]:
    """In words, that a method destroyed what it should keep, or made the forgotten rows stand out; else empty."""
    mean = lambda rows, key: float(np.mean([row[key] for row in rows if key in row]))
    said = []
    drop = mean(references, "RA") - mean(values, "RA")
    if drop > COLLAPSE_POINTS:
        said.append(f"Collapsed: remain accuracy is {drop:.1f} points below retraining.")
    if all("AUC" in row for row in (*values, *references)):
        auc, retrained = mean(values, "AUC"), mean(references, "AUC")
        if auc < COLLAPSE_AUC <= retrained:
            said.append(
                f"Collapsed: forgotten rows have larger losses than unseen rows (AUC {auc:.2f}, retrained {retrained:.2f})."
            )
    return said
