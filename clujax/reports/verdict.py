"""What happened, in plain sentences: the method in focus first, then the comparison as a whole."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clujax.reports import compare, results, wording
from clujax.reports.verdict_stream import stream_focus

_MOST = 6  # names that a sentence holds


def verdict(request: Mapping[str, Any]) -> list[str]:
    """The method in focus beside the original and the retrained model, then what the whole comparison says."""
    ours, reference = results.focus(request), results.method(request, request["reference"])
    if ours is None or reference is None:
        kind = "method" if wording.is_stream(request) else "unlearning method"
        return [f"This run compares no {kind} with {wording.of(request).reference}."]
    told = stream_focus if wording.is_stream(request) else _focus
    return [*told(request, ours, reference), *comparison(request)]


def comparison(request: Mapping[str, Any]) -> list[str]:
    """Which methods end within the noise of retraining, which collapsed, and which give the forgotten rows away."""
    methods = compare.ranked(request, compare.rivals(request))
    if len(methods) < 2:
        return []
    return [*_within(request, methods), *_collapsed(methods), *_given_away(request, methods)]


def _focus(request: Mapping[str, Any], ours: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    before = results.method(request, "original")
    metrics = {metric["key"]: metric for metric in request["metrics"]}
    name, sentences = ours["label"], []

    def told(key: str, template: str) -> None:
        values = [None if each is None else each["values"].get(key) for each in (ours, reference, before)]
        if key not in metrics or values[0] is None or values[1] is None:
            return
        unit = f"\u00a0{metrics[key]['unit']}".rstrip()  # a number never parts from its unit
        now, fresh, old = (f"{results.number(value, metrics[key]['unit'])}{unit}" for value in values)
        was = f"; before: {old}" if values[2] is not None else ""
        who = "a model retrained from scratch" if not sentences else "retrained"
        sentences.append(f"{template.format(name=name, now=now)} ({who}: {fresh}{was}).")

    told("MIA", "After {name} the attack takes {now} of the forgotten rows for training data")
    told("FA", "The model still classifies {now} of the forgotten rows correctly")
    told("TA", "On rows that no model has seen it is right in {now}")
    sentences += _average(request, ours)
    if not sentences:
        for metric in request["metrics"][:3]:
            told(metric["key"], f"{metric['label']} after {{name}}: {{now}}")
    if words := compare.told(request, ours):
        sentences.append(f"{name}: {words}")
    return sentences


def _average(request: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    metric = compare.average(request)
    distance = None if metric is None else ours["values"].get(metric["key"])
    if distance is None:
        return []
    text = f"On average it ends {results.number(distance, metric['unit'])} points from the retrained model"
    if (noise := (request.get("noise_floor") or {}).get(metric["key"])) is not None:
        text += f"; two retrained models differ by {results.number(noise, metric['unit'])}"
        if distance <= noise:
            text += ", so it is no further than retraining itself varies"
    return [f"{text}."]


def _within(request: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [(each, compare.within_noise(request, each)) for each in methods]
    judged = [each for each, inside in known if inside is not None]
    if all(map(compare.collapsed, judged)):
        return []
    inside, count = [each["label"] for each, yes in known if yes], len(judged)
    if not inside:
        return [f"None of {count} methods ends within the noise of retraining{_nearest(request, methods[0])}."]
    verb = "ends" if len(inside) == 1 else "end"
    text = f"Of {count} methods, {len(inside)} {verb} on average within the noise of retraining: {_listed(inside)}"
    alike = [each["label"] for each in methods if compare.matches(request, each)]
    if any(compare.matches(request, each) is not None for each in methods):
        text += f"; in every headline metric: {_listed(alike) if alike else 'none'}"
    return [f"{text}."]


def _nearest(request: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    distance = compare.standing(request, method)
    if not math.isfinite(distance):
        return ""
    far = results.number(distance, compare.average(request)["unit"])
    return f"; the nearest on average is {method['label']}, {far} points away"


def _collapsed(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [each["label"] for each in methods if compare.collapsed(each)]
    return [f"Collapsed, that is, destroyed what should be kept: {_listed(names)}."] if names else []


def _given_away(request: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [each for each in methods if not compare.collapsed(each)]
    shifts = [(each, compare.shift(request, each, "MIA")) for each in known]
    found = [(each, shift) for each, shift in shifts if shift and compare.beyond(request, each, "MIA")]
    if not found:
        judged = [each for each in known if compare.beyond(request, each, "MIA") is not None]
        who = "any of the others" if len(known) < len(methods) else "any method"
        return [f"No attack tells {who} from retraining by its forgotten rows."] if judged else []
    sentences = []
    more = sorted((pair for pair in found if pair[1] > 0), key=lambda pair: -pair[1])
    fewer = sorted((pair for pair in found if pair[1] < 0), key=lambda pair: pair[1])
    if more:
        sentences.append(
            "These still give the forgotten rows away, since the attack takes more of them for training data than after "
            f"retraining: {_listed(_points(more), _MOST)}."
        )
    if fewer:
        sentences.append(
            "These give them away by forgetting too much, since the attack takes fewer of them for training data than "
            f"after retraining: {_listed(_points(fewer), _MOST)}."
        )
    return sentences


def _points(pairs: Sequence[tuple[Mapping[str, Any], float]]) -> list[str]:
    return [f"{each['label']} ({results.number(shift, '%', signed=True)})" for each, shift in pairs]


def _listed(names: Sequence[str], most: int = 100) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
