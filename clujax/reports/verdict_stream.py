"""What happened over a stream of requests, in plain sentences about the method in focus."""

import math
from collections.abc import Mapping
from typing import Any

from clujax.reports import compare, results


def stream_focus(request: Mapping[str, Any], ours: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """How far a method ends from the oracle, whether forgotten rows came back, and what a request costs.

    Sentences whose numbers are missing are left out.
    """
    told = [_distance(request, ours), _relapse(request, ours, reference), _divergence(request, ours)]
    if words := compare.told(request, ours):
        told.append(f"{ours['label']}: {words}")
    return [each for each in [*told, _cost(ours, reference)] if each]


def _distance(request: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    metric = compare.average(request)
    if metric is None or not math.isfinite(distance := compare.standing(request, ours)):
        return f"{ours['label']} did not finish the stream." if not ours["values"] else ""
    far = results.number(distance, metric["unit"])
    text = (
        f"On average over the requests {ours['label']} ends {far} points from the oracle, which is retrained from "
        "scratch after every request"
    )
    noise = _noise(request, metric["key"])
    if noise is not None:
        text += f"; two oracles differ by {results.number(noise, metric['unit'])}"
        if distance <= noise:
            text += ", so it is no further than retraining itself varies"
    return f"{text}."


def _relapse(request: Mapping[str, Any], ours: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    values = [_value(each, "Relapse") for each in (ours, reference)]
    if None in values:
        return ""
    shift = values[0] - values[1]
    now, ideal = (f"{results.number(value, '%')}\u00a0%" for value in values)
    apart = results.number(shift, "%", signed=True)
    numbers = f"{ours['label']} classifies {now} of them correctly, the oracle {ideal} ({apart})"
    beyond = compare.beyond(request, ours, "Relapse")
    if beyond is None:  # nothing says what chance does
        return f"Rows forgotten earlier: {numbers}."
    if not beyond:
        return f"Rows forgotten earlier did not come back: {numbers}, a difference within chance."
    if shift > 0:
        return f"Rows forgotten earlier came back in part: {numbers}."
    return f"Rows forgotten earlier did not come back, but stand out as forgotten: {numbers}."


def _divergence(request: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    names = {"KL_forget": "forgotten", "KL_kept": "kept"}
    known = {key: value for key in names if (value := _value(ours, key)) is not None}
    if not known:
        return ""
    unit = next((each["unit"] for each in request["metrics"] if each["key"] in known), "nat")
    told = " and ".join(
        f"{results.number(value, unit)}\u00a0{unit} on {names[key]} rows" for key, value in known.items()
    )
    floors = [_noise(request, key) for key in known]
    tail = ""
    if None not in floors:
        tail = f" (two oracles: {' and '.join(results.number(floor, unit) for floor in floors)})"
    return f"The KL divergence of its predictions from the oracle's is {told}{tail}."


def _cost(ours: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    now, whole = _value(ours, "seconds"), _value(reference, "seconds")
    if not now or not whole:
        return ""
    ratio = whole / now
    speed = "as long as"
    if not 1 / 1.05 < ratio < 1.05:
        times = max(ratio, 1 / ratio)
        speed = f"{times:.{0 if times >= 9.5 else 1}f} times {'faster' if ratio > 1 else 'slower'} than"
    return f"A request takes it {_seconds(now)}, {speed} retraining ({_seconds(whole)})."


def _seconds(value: float) -> str:
    return f"{results.number(value, 's' if value >= 0.05 else '')}\u00a0s"


def _value(method: Mapping[str, Any], key: str) -> float | None:
    value = method["values"].get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _noise(request: Mapping[str, Any], key: str) -> float | None:
    return (request.get("noise_floor") or {}).get(key)
