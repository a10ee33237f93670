"""From what methods did over the seeds of a stream to its record in `result.json` and the curves in its evidence."""

import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clujax.continual.metrics import STREAM_METRICS, over_stream
from clujax.training.workdir import write_bytes

LABELS = {
    "oracle": "Oracle",
    "oracle_again": "Oracle again",
    "finetune": "Finetune",
    "replay": "ER",
    "der": "DER",
    "der_plus": "DER++",
    "ewc": "EWC",
    "online_ewc": "Online EWC",
    "lwf": "LwF",
    "joint": "Joint, adaptive",
    "joint_ascent": "Joint, ascent",
    "joint_relabel": "Joint, random label",
    "clpu": "CLPU-DER++",
    "distill": "Two teachers",
    "er_sfron": "ER, then SFR-on",
    "er_ascent": "ER, then ascent",
    "er_relabel": "ER, then random label",
    "er_salun": "ER, then SalUn",
    "er_scrub": "ER, then SCRUB",
    "ug_clu": "UG-CLU",
}


class Cell(NamedTuple):
    """One method over one stream and seed: metrics after each request, settings, and what a user must hear."""

    requests: tuple[Mapping[str, float], ...]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]


def stream_record(
    key: str,
    settings: Any,
    requests: Sequence[Any],
    kept: Sequence[Sequence[Sequence[int]]],
    cells: Mapping[str, Sequence[Cell]],
    *,
    labels: Mapping[str, str],
    focus: str | None,
    sizes: Mapping[str, int],
) -> dict:
    """Everything that is told about one stream, as `clujax.reports` reads it.

    Args:
      key, settings: the stream as configured.
      requests: of the first seed.
      kept: of each seed, the classes with kept rows after each request.
      cells: method -> one cell a seed.
      labels: method -> what it is called, where `LABELS` does not say.
      focus: the method that the pictures are about.
      sizes: rows forgotten, learned and tested on over the stream.
    """
    # A method that failed at a request has no numbers for that seed.
    summaries = {
        name: [
            over_stream(cell.requests, have) if len(cell.requests) == len(requests) else None
            for cell, have in zip(group, kept, strict=True)
        ]
        for name, group in cells.items()
    }
    again = summaries.get("oracle_again")
    return {
        "key": key,
        "name": key,
        "label": settings.get("label", key),
        "scenario": "task-aware" if settings.task_aware else "task-agnostic",
        **sizes,
        "metrics": [metric._asdict() for metric in STREAM_METRICS],
        "reference": "oracle",
        "focus": focus,
        "stream": [
            {"word": request.name, "learn": len(request.learn), "forget": len(request.forget)} for request in requests
        ],
        "methods": [
            method_record(name, group, summaries[name], summaries["oracle"], labels) for name, group in cells.items()
        ],
        "noise_floor": None if again is None else mean_over(gaps(again, summaries["oracle"])),
    }


def method_record(
    key: str,
    group: Sequence[Cell],
    summaries: Sequence[Mapping[str, float] | None],
    oracles: Sequence[Mapping[str, float]],
    labels: Mapping[str, str],
) -> dict:
    """One row of a stream's table: means and spreads over the seeds that it finished, gaps, settings, warnings."""
    heard = sorted({text for cell in group for text in cell.warnings})
    summary = [values for values in summaries if values is not None]
    oracle = [reference for values, reference in zip(summaries, oracles, strict=True) if values is not None]
    if summary and (lost := collapse(key, summary, oracle)):
        heard.append(lost)
    return {
        "key": key,
        "label": labels.get(key) or LABELS.get(key, key),
        "values": mean_over(summary),
        "std": spread(summary) if len(summary) > 1 else None,
        "gap": mean_over(gaps(summary, oracle)) if summary and key != "oracle" else None,
        "per_seed": summaries,
        "run_seconds": float(np.mean([values["seconds"] for values in summary])) if summary else None,
        "settings": {name: described(value) for name, value in group[0].settings.items()},
        "collapsed": any(text.startswith("Collapsed:") for text in heard),
        "warnings": heard,
    }


def collapse(key: str, summary: Sequence[Mapping[str, float]], oracle: Sequence[Mapping[str, float]]) -> str:
    """A sentence for a method that lost more than a third of the oracle's test accuracy over the stream; else ""."""
    if key.startswith("oracle"):
        return ""
    lost = [reference["TA"] - values["TA"] for values, reference in zip(summary, oracle, strict=True)]
    share = np.mean(lost) / np.mean([reference["TA"] for reference in oracle])
    return f"Collapsed: test accuracy is {np.mean(lost):.1f} points below the oracle's." if share > 1 / 3 else ""


def gaps(summary: Sequence[Mapping[str, float]], oracle: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Sizes of the distances to the oracle's values, or to 0 for metrics that are distances themselves."""
    ideal = {metric.key: metric.ideal for metric in STREAM_METRICS if metric.group != "cost"}
    return [
        {
            name: abs(values[name] - (reference[name] if ideal[name] == "retrain" else ideal[name]))
            for name in values
            if name in ideal and name in reference
        }
        for values, reference in zip(summary, oracle, strict=True)
    ]


def mean_over(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds, key by key; empty for no seeds."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Standard deviation over seeds, key by key."""
    return {key: float(np.std([row[key] for row in rows], ddof=1)) for key in rows[0]}


def described(value: Any) -> Any:
    """A setting as JSON: functions by name."""
    if isinstance(value, Mapping):
        return {name: described(inner) for name, inner in value.items()}
    return getattr(value, "__qualname__", value) if callable(value) else value


def write_evidence(path: pathlib.Path, cells: Mapping[str, Sequence[Cell]], record: Mapping[str, Any]) -> None:
    """The curves of a stream: `stream_<metric>` [M, Q], means over seeds, and `stream_<metric>_std`; NaN for no number."""
    keys = dict.fromkeys(key for group in cells.values() for cell in group for row in cell.requests for key in row)
    arrays: dict[str, Any] = {
        "stream_models": np.array(list(cells)),
        "stream_requests": np.array([each["word"] for each in record["stream"]]),
    }
    for key in keys:
        curves = np.full((len(cells), len(next(iter(cells.values()))), len(record["stream"])), np.nan)
        for m, group in enumerate(cells.values()):
            for s, cell in enumerate(group):
                curves[m, s, : len(cell.requests)] = [row.get(key, np.nan) for row in cell.requests]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a request without such rows has no mean
            arrays[f"stream_{key}"] = np.nanmean(curves, 1)
            arrays[f"stream_{key}_std"] = np.nanstd(curves, 1, ddof=1) if curves.shape[1] > 1 else 0 * curves[:, 0]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
