"""What the numbers of one request say: who collapsed, who ends within chance, and in which order they end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clujax.reports.results import distance, focus, method, retrained

__all__ = [
    "average",
    "beyond",
    "collapsed",
    "compared",
    "focus",
    "headline",
    "is_cost",
    "judged",
    "matches",
    "ranked",
    "rivals",
    "shift",
    "standing",
    "told",
    "within_noise",
]


def collapsed(method: Mapping[str, Any]) -> bool:
    """Whether a method destroyed what it should keep, by its own entry or by a warning that begins so."""
    marked = method.get("collapsed")
    return (
        any(str(text).startswith("Collapsed:") for text in method.get("warnings") or ()) if marked is None else marked
    )


def is_cost(metric: Mapping[str, Any]) -> bool:
    """Whether a metric is a price, not a distance to anything."""
    return metric["unit"] == "s" or metric.get("group") == "cost"


def headline(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The metrics that are shown first; all of them where none is marked."""
    return [metric for metric in metrics if metric.get("headline")] or list(metrics)


def compared(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The metrics in which some method has a distance to the reference."""
    others = [each for each in request["methods"] if each["key"] != request["reference"]]
    return [
        metric
        for metric in request["metrics"]
        if not is_cost(metric) and any(math.isfinite(distance(request, each, metric)[0]) for each in others)
    ]


def rivals(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods that unlearn: neither the given model nor a retrained one."""
    return [each for each in request["methods"] if each["key"] != "original" and not retrained(request, each)]


def average(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metric that averages the distances, or None."""
    spelled = ("avgd", "avg_d")
    return next((each for each in request["metrics"] if each["key"].lower().replace(".", "") in spelled), None)


def standing(request: Mapping[str, Any], method: Mapping[str, Any]) -> float:
    """Average distance of a method; infinite where it is not known or not finite, so that it ranks last."""
    metric = average(request)
    value = None if metric is None else method["values"].get(metric["key"])
    return float(value) if value is not None and math.isfinite(value) else math.inf


def ranked(request: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Methods by average distance, those without one last in the order they came in."""
    return sorted(methods, key=lambda each: standing(request, each))


def judged(request: Mapping[str, Any]) -> list[str]:
    """Keys of the metrics that a method must match to end within chance: the headline without costs."""
    return [metric["key"] for metric in headline(request["metrics"]) if not is_cost(metric)]


def beyond(request: Mapping[str, Any], method: Mapping[str, Any], key: str) -> bool | None:
    """Whether a metric differs from retraining by more than retraining varies; None where that is not known.

    The entry `larger_than_noise` decides. Without it, a distance of more than 2.5 noise floors does: the floor is a mean
    distance of two networks, of which two standard deviations are 2 √(π/2) = 2.5 for a normal law.
    """
    if method.get("larger_than_noise") is not None:
        return key in method["larger_than_noise"]
    noise = (request.get("noise_floor") or {}).get(key)
    metric = next((each for each in request["metrics"] if each["key"] == key), None)
    size = math.nan if metric is None else abs(distance(request, method, metric)[0])
    return None if noise is None or math.isnan(size) else size > 2.5 * noise


def within_noise(request: Mapping[str, Any], method: Mapping[str, Any]) -> bool | None:
    """Whether a method ends on average no further from retraining than retraining varies; None where unknown."""
    metric = average(request)
    if collapsed(method):
        return False
    if metric is None:
        return matches(request, method)
    noise = (request.get("noise_floor") or {}).get(metric["key"])
    if method.get("larger_than_noise") is not None or noise is None:
        larger = beyond(request, method, metric["key"])
        return None if larger is None else not larger
    return standing(request, method) <= noise


def matches(request: Mapping[str, Any], method: Mapping[str, Any]) -> bool | None:
    """Whether no headline metric at all differs by more than chance; None where that is not recorded."""
    larger = method.get("larger_than_noise")
    return None if larger is None else not collapsed(method) and not set(larger) & set(judged(request))


def shift(request: Mapping[str, Any], entry: Mapping[str, Any], key: str) -> float:
    """Signed difference of a metric to the reference, nan where either is missing."""
    values = [entry["values"].get(key), method(request, request["reference"])["values"].get(key)]
    return math.nan if None in values else float(values[0] - values[1])


def told(request: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Which headline metrics differ by more than chance and which do not, in words; "" where that is not recorded."""
    if method.get("larger_than_noise") is None or method["key"] == request["reference"]:
        return ""
    known = [key for key in judged(request) if method["values"].get(key) is not None]
    over = [key for key in known if key in method["larger_than_noise"]]
    rest = [key for key in known if key not in over]
    if not over:
        return "no headline metric differs from retraining by more than retraining varies."
    verb = "differs" if len(over) == 1 else "differ"
    others = f"; {', '.join(rest)} {'does' if len(rest) == 1 else 'do'} not" if rest else ""
    return f"{', '.join(over)} {verb} from retraining by more than retraining varies{others}."
