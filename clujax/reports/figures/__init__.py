"""One function per figure, from arrays to a matplotlib Figure; a file for each part of the story."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import compare
from clujax.reports.figures import curves
from clujax.reports.figures.classes import belief_grid, class_accuracy
from clujax.reports.figures.cost import cost_chart, timed
from clujax.reports.figures.gaps import gap_chart
from clujax.reports.figures.heatmap import gap_heatmap
from clujax.reports.figures.look import DPI, PALETTE, WIDE, WIDTH, colours
from clujax.reports.figures.scores import membership_evidence, score_distributions
from clujax.reports.figures.steps import mask_density, trajectory
from clujax.reports.figures.stream import DISTANCES, GROUPS, stream_distance, stream_groups
from clujax.reports.figures.stream_classes import maps, stream_classes
from clujax.reports.figures.stream_time import spent, stream_time
from clujax.reports.figures.tradeoff import plane, tradeoff

__all__ = [
    "DPI",
    "PALETTE",
    "WIDE",
    "WIDTH",
    "belief_grid",
    "class_accuracy",
    "colours",
    "cost_chart",
    "draw",
    "gap_chart",
    "gap_heatmap",
    "mask_density",
    "membership_evidence",
    "score_distributions",
    "stream_classes",
    "stream_distance",
    "stream_groups",
    "stream_time",
    "tradeoff",
    "trajectory",
]

MANY = 12  # methods that a chart of one panel a metric still holds


def draw(result: Mapping[str, Any], request: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure that the evidence of a request allows, by name, in the order of the story."""
    seeds = len(result.get("seeds") or [0])
    one = "1 seed" if seeds == 1 else f"1 of {seeds} seeds"
    if seeds > 1 and "seed" in evidence:
        one = f"seed {evidence['seed']} of {seeds}"
    figures = _of_stream(request, evidence, seeds) | _of_values(request, seeds) | _of_evidence(request, evidence, one)
    if "stream_time" in figures:
        figures.pop("cost", None)  # its means are the diamonds there
    return figures


def _of_stream(request: Mapping[str, Any], evidence: Mapping[str, Any], seeds: int) -> dict[str, Figure]:
    if not len(evidence.get("stream_models", ())):
        return {}
    some = lambda keys: any(curves.read(request, evidence, key) for key in keys)
    figures = {}
    if some(GROUPS):
        figures["stream_groups"] = stream_groups(request, evidence, seeds=seeds)
    if some(DISTANCES):
        figures["stream_distance"] = stream_distance(request, evidence, seeds=seeds)
    if maps(request, evidence):
        figures["stream_classes"] = stream_classes(request, evidence, seeds=seeds)
    if spent(request, evidence):
        figures["stream_time"] = stream_time(request, evidence, seeds=seeds)
    return figures


def _of_values(request: Mapping[str, Any], seeds: int) -> dict[str, Figure]:
    figures = {}
    if compare.compared(request):
        many = len(request["methods"]) - 1 > MANY
        figures |= {"heatmap": gap_heatmap(request, seeds=seeds)} if many else {"gaps": gap_chart(request, seeds=seeds)}
    if plane(request):
        figures["tradeoff"] = tradeoff(request, seeds=seeds)
    if len(timed(request)) > 1:
        figures["cost"] = cost_chart(request, seeds=seeds)
    return figures


def _of_evidence(request: Mapping[str, Any], evidence: Mapping[str, Any], one: str) -> dict[str, Figure]:
    labels = {method["key"]: method["label"] for method in request["methods"]}
    figures = {}
    if _scored(request, evidence):
        figures["scores"] = score_distributions(request, evidence, seeds=one)
    if "class_accuracy" in evidence:
        figures["class_accuracy"] = class_accuracy(evidence, labels, seeds=one)
    if "membership_forget" in evidence:
        figures["membership"] = membership_evidence(evidence, labels, seeds=one)
    if "belief" in evidence and len(evidence["images"]) and np.ndim(evidence["images"]) == 4:
        figures["beliefs"] = belief_grid(evidence, labels, seeds=one)
    if len(evidence.get("trajectory_step", ())):
        figures["trajectory"] = trajectory(evidence, seeds=one)
    if len(evidence.get("mask_density", ())):
        figures["mask"] = mask_density(evidence, seeds=one)
    return figures


def _scored(request: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    keys = {method["key"] for method in request["methods"]}
    rows = zip(map(str, evidence.get("scores_models", ())), evidence.get("scores_forget", ()))
    return any(key in keys and np.isfinite(row).any() for key, row in rows)
