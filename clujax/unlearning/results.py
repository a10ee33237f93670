"""From the cells of a run to the record in `result.json`: means over seeds, gaps, the noise floor, warnings."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import clujax
from clujax.unlearning.metrics import METRICS

LABELS = {
    "original": "Original",
    "retrain": "Retrain",
    "retrain_again": "Retrain again",
    "finetune": "Finetune",
    "gradient_ascent": "Gradient ascent",
    "random_label": "Random label",
    "salun": "SalUn",
    "scrub": "SCRUB",
    "bad_teacher": "Bad teacher",
    "neg_grad_plus": "NegGrad+",
    "npo": "NPO",
    "sim_npo": "SimNPO",
    "l1_sparse": "l1-sparse",
    "cf_k": "CF-k",
    "eu_k": "EU-k",
    "ssd": "SSD",
    "fisher_forgetting": "Fisher forgetting",
    "influence": "Influence",
    "scrub_r": "SCRUB+R",
    "unsir": "UNSIR",
    "boundary_shrink": "Boundary shrink",
    "boundary_expand": "Boundary expand",
    "ntk": "NTK",
    "rum": "RUM",
    "muso": "MUSO",
    "sfron": "SFR-on",
    "fron": "FR-on (no mask)",
    "ron": "R-on (no mask, plain ascent)",
    "sfron_no_floor": "SFR-on, floor 0",
    "euclidean": "SFR, Euclidean step",
    "fixed_fisher": "SFR, fixed Fisher",
    "remain_newton": "SFR, remain-Newton",
    "remain_newton_alone": "SFR, remain-Newton without descent",
}


def request_record(
    name: str,
    settings: Any,
    case: Any,
    cells: Mapping[str, Sequence[Any]],
    *,
    noise: Sequence[Mapping[str, Any]] = (),
    labels: Mapping[str, str] | None = None,
    focus: str | None = None,
) -> dict:
    """Everything that is told about one request.

    Args:
      name, settings: the request as configured.
      case: its rows for the first seed.
      cells: method -> one cell a seed.
      noise: per seed, what an ensemble of retrained networks shows of chance; empty takes a second retrained network.
      labels: method -> what it is called, where `LABELS` does not say.
      focus: the method that the pictures are about.
    """
    retrained = [cell.values for cell in cells["retrain"]]
    again = cells.get("retrain_again")
    floor = None if again is None else mean_over([noise_of(cell) for cell in again])
    record = {
        "key": name,
        "name": settings.get("label", name),
        "scenario": case.split.scenario,
        "split_hash": case.split.hash,
        "num_forget": len(case.split.forget),
        "num_remain": len(case.split.remain),
        "num_test": len(case.test["y"]),
        "metrics": [metric._asdict() for metric in METRICS],
        "reference": "retrain",
        "focus": focus,
        "methods": [method_record(key, group, retrained, labels or {}) for key, group in cells.items()],
        "noise_floor": floor,
    }
    if noise:
        record |= {"noise_floor": mean_over([each["floor"] for each in noise]), "noise_ellipse": noise[0]["ellipse"]}
    return record


def method_record(
    key: str, group: Sequence[Any], retrained: Sequence[Mapping[str, float]], labels: Mapping[str, str]
) -> dict:
    """One row of the table: means and spreads over seeds, gaps to retrain, costs, settings, warnings."""
    rows = [cell.values | timing(cell.outcome) | average_distance(cell) for cell in group]
    warnings = sorted({text for cell in group for text in cell.outcome.warnings})
    warnings += collapse_warnings([cell.values for cell in group], retrained)
    return {
        "key": key,
        "label": labels.get(key) or LABELS.get(key, key),
        "values": mean_over(rows),
        "std": {name: float(np.std([row[name] for row in rows], ddof=1)) for name in rows[0]}
        if len(rows) > 1
        else None,
        "gap": None if group[0].gap is None else mean_over([absolute(cell.gap) for cell in group]),
        "per_seed": rows,
        "compile_seconds": float(np.mean([cell.outcome.compile_seconds for cell in group])),
        "run_seconds": float(np.mean([timing(cell.outcome)["seconds"] for cell in group])),
        "settings": {name: described(value) for name, value in group[0].outcome.settings.items()},
        "density": group[0].outcome.facts.get("density", {}).get("total"),
        "warnings": warnings,
    }


def timing(outcome: Any) -> dict[str, float]:
    """Seconds of preparing and running, compilation apart."""
    return {"seconds": outcome.prepare_seconds + outcome.run_seconds}


def average_distance(cell: Any) -> dict[str, float]:
    """Avg. D of one seed; 0 for the reference itself."""
    return {"AvgD": 0.0 if cell.gap is None else cell.gap["AvgD"]}


def collapse_warnings(values: Sequence[Mapping], retrained: Sequence[Mapping]) -> list[str]:
    """Say in words when a method destroyed what it should keep."""
    drop = float(np.mean([reference["RA"] - value["RA"] for value, reference in zip(values, retrained, strict=True)]))
    return [f"Collapsed: remain accuracy is {drop:.1f} points below retraining."] if drop > 5 else []


def noise_of(cell: Any) -> dict[str, float]:
    """Distances of a second retrained network to the first."""
    return absolute(cell.gap) | {key: cell.values[key] for key in ("KL", "JS")}


def absolute(gap: Mapping[str, float]) -> dict[str, float]:
    """Sizes of the gaps."""
    return {key: abs(value) for key, value in gap.items()}


def mean_over(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds, key by key."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def described(value: Any) -> Any:
    """A setting as JSON: functions by name."""
    return getattr(value, "__qualname__", value) if callable(value) else value


def environment() -> dict:
    """Where and when a result was made."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"clujax": clujax.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} × {device.device_kind} ({jax.default_backend()})",
    }
