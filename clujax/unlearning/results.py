"""From the cells of a run to the record in `result.json`: means over seeds, gaps, the noise floor, warnings."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from clujax.unlearning.intervals import paired_gap_interval, t_interval
from clujax.unlearning.metrics import METRICS, row_outcomes
from clujax.unlearning.noise import collapse, larger_than_noise, noise_record, pooled

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


GIVEN = ("original", "retrain", "retrain_again")


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
    references = [cell.values for cell in cells["retrain"]]
    again = cells.get("retrain_again")
    if noise:
        chance = pooled(noise)
    elif again is not None:
        shifts = [noise_record([cell.values], values)["shifts"] for cell, values in zip(again, references, strict=True)]
        chance = {"floor": mean_over([{key: sizes[0] for key, sizes in each.items()} for each in shifts])}
    else:
        chance = {"floor": None}
    record = {
        "key": name,
        "name": settings.get("label", name),
        "scenario": case.split.scenario,
        "split_hash": case.split.hash,
        "num_forget": len(case.split.forget),
        "num_remain": len(case.split.remain),
        "num_test": len(case.test["y"]),
        "facts": dict(case.facts),
        "metrics": [metric._asdict() for metric in METRICS],
        "reference": "retrain",
        "focus": focus,
        "methods": [
            method_record(key, group, cells["retrain"], labels or {}, chance.get("limit"))
            for key, group in cells.items()
        ],
        "noise_floor": chance["floor"],
    }
    if noise:
        record |= {"noise_limit": chance["limit"], "noise_models": chance["models"], "noise_ellipse": chance["ellipse"]}
    return record


def method_record(
    key: str,
    group: Sequence[Any],
    retrained: Sequence[Any],
    labels: Mapping[str, str],
    limit: Mapping[str, float] | None,
) -> dict:
    """One row of the table: means and spreads over seeds, gaps to retrain, costs, settings, warnings.

    Seeds at which the method diverged have no numbers; the means are over the others, and the row says so.
    """
    pairs = [(cell, reference) for cell, reference in zip(group, retrained, strict=True) if cell.values]
    finite = [cell for cell, _ in pairs]
    references = [reference.values for _, reference in pairs]
    rows = [cell.values | timing(cell.outcome) for cell in finite]
    warnings = sorted({text for cell in group for text in cell.outcome.warnings})
    if finite and key not in GIVEN:
        warnings += collapse([cell.values for cell in finite], references)
    method = {
        "key": key,
        "label": labels.get(key) or LABELS.get(key, key),
        "values": mean_over(rows),
        "std": {name: float(np.std([row[name] for row in rows], ddof=1)) for name in rows[0]}
        if len(rows) > 1
        else None,
        "gap": mean_over([absolute(cell.gap) for cell in finite if cell.gap]) or None,
        "per_seed": rows,
        "compile_seconds": float(np.mean([cell.outcome.compile_seconds for cell in group])),
        "run_seconds": float(np.mean([timing(cell.outcome)["seconds"] for cell in group])),
        "settings": {name: described(value) for name, value in group[0].outcome.settings.items()},
        "density": group[0].outcome.facts.get("density", {}).get("total"),
        "collapsed": any(text.startswith("Collapsed:") for text in warnings),
        "warnings": warnings,
    }
    if key != "retrain" and finite:
        if limit is not None:  # one pair of networks is no measure of how often a distance occurs
            weight = one_row(retrained[0].cache)
            method["larger_than_noise"] = larger_than_noise([cell.values for cell in finite], references, limit, weight)
        method["interval"] = intervals(finite, [reference for _, reference in pairs])
    return method


def intervals(group: Sequence[Any], retrained: Sequence[Any]) -> dict[str, list[float]]:
    """95 % intervals of signed gaps of accuracies and membership by the paired bootstrap, and of Avg. D over seeds by t.

    Rows are drawn together for both networks, and seeds where there are several.
    """
    outcomes = [(row_outcomes(cell.cache), row_outcomes(reference.cache)) for cell, reference in zip(group, retrained)]
    found = {}
    for name in outcomes[0][0]:
        ours, theirs = (100.0 * np.stack([side[i][name] for side in outcomes]) for i in range(2))
        interval = paired_gap_interval(jax.random.key(0), ours, theirs, same_rows=name in ("TA", "FA_test"))
        found[name] = [interval.low, interval.high]
    if len(group) > 1:
        interval = t_interval([cell.values["AvgD"] for cell in group])
        found["AvgD"] = [max(interval.low, 0.0), interval.high]
    return found


def one_row(cache: Mapping[str, tuple]) -> dict[str, float]:
    """What one row weighs in each metric that is a share of rows, in per cent."""
    sides = {"RA": "remain", "TA": "unseen", "FA_test": "unseen_forget"}
    sides |= dict.fromkeys(("FA", "MIA", "SVC", "SVC_correct", "SVC_entropy", "SVC_m", "Threshold", "Agree"), "forget")
    return {key: 100 / len(cache[side][1]) for key, side in sides.items() if side in cache}


def timing(outcome: Any) -> dict[str, float]:
    """Seconds of preparing and running, compilation apart."""
    return {"seconds": outcome.prepare_seconds + outcome.run_seconds}


def absolute(gap: Mapping[str, float]) -> dict[str, float]:
    """Sizes of the gaps."""
    return {key: abs(value) for key, value in gap.items()}


def mean_over(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over seeds, key by key; empty for no seeds."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


def described(value: Any) -> Any:
    """A setting as JSON: functions by name."""
    return getattr(value, "__qualname__", value) if callable(value) else value
