"""Which rows are forgotten: splits by scenario, checked and hashed."""

import hashlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from clujax.errors import RequestError

SCENARIOS = ("random", "class", "incremental")


class Split(NamedTuple):
    """Row numbers to forget and to keep, ascending; the scenario; and a hash of all of it."""

    forget: Int[np.ndarray, " n_f"]
    remain: Int[np.ndarray, " n_r"]
    scenario: str
    hash: str


def make_split(
    labels,
    scenario: str,
    *,
    seed: int = 0,
    fraction: float | None = None,
    classes: Sequence[int] | np.ndarray | None = None,
    step: int | None = None,
    steps: int | None = None,
    stratified: bool = False,
) -> Split:
    """Choose the rows to forget.

    Args:
      labels: `[N]` integer labels of all training rows.
      scenario: "random": a `fraction` of all rows (of each class alike when `stratified`); "class": every row of `classes`;
        "incremental": slice `step` (0, 1, …) of `steps` slices of a seeded permutation of a `fraction` of the rows (all of
        them by default); slices before it are in neither part, having been forgotten.
      seed: of the permutation.

    Raises:
      RequestError: an argument is missing or out of range, a class is absent, or a part would be empty.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise RequestError(f"labels has shape {labels.shape}, dtype {labels.dtype}; expected [N] integers.")
    if seed < 0:
        raise RequestError(f"seed is {seed}; expected at least 0.")
    if scenario not in SCENARIOS:
        raise RequestError(f"scenario is {scenario!r}; expected one of {SCENARIOS}.")
    if scenario in ("random", "incremental"):
        if fraction is None and scenario == "incremental":
            fraction = 1.0
        if fraction is None or not (0 < fraction < 1 or (scenario == "incremental" and fraction == 1)):
            raise RequestError(f"fraction is {fraction}; a {scenario} split needs a number in (0, 1).")
    order = np.random.default_rng(seed).permutation(len(labels))
    gone = np.array([], int)
    if scenario == "random" and stratified:
        forget = np.concatenate([_first(order[labels[order] == c], fraction) for c in np.unique(labels)])
    elif scenario == "random":
        forget = _first(order, fraction)
    elif scenario == "class":
        if classes is None or np.ndim(classes) != 1 or not len(classes):
            raise RequestError(f"classes is {classes}; a class split needs a list of the labels to forget.")
        absent = sorted(set(classes) - set(np.unique(labels).tolist()))
        if absent:
            raise RequestError(f"classes {absent} are absent; the labels present are {np.unique(labels).tolist()}.")
        forget = np.flatnonzero(np.isin(labels, list(classes)))
    else:
        if not steps or step is None or not 0 <= step < steps:
            raise RequestError(f"step is {step} of steps {steps}; an incremental split needs 0 <= step < steps.")
        slices = np.array_split(_first(order, fraction), steps)
        forget, gone = slices[step], np.concatenate([gone, *slices[:step]])
    remain = np.setdiff1d(np.arange(len(labels)), np.concatenate([forget, gone]))
    forget = np.sort(forget)
    check_split(forget, remain, len(labels))
    if len(forget) > len(labels) / 2:
        warnings.warn(f"{len(forget)} of {len(labels)} rows are to be forgotten, more than half.", stacklevel=2)
    return Split(forget, remain, scenario, split_hash(forget, remain, scenario))


def check_split(forget, remain, num_rows: int) -> None:
    """Refuse parts that are empty, overlap, repeat a row or point outside the data.

    Raises:
      RequestError: naming the part and the rows.
    """
    for name, rows in (("forget", np.asarray(forget)), ("remain", np.asarray(remain))):
        if rows.size == 0:
            raise RequestError(f"{name} is empty; of {num_rows} rows at least one must be left to {name}.")
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise RequestError(f"{name} has shape {rows.shape}, dtype {rows.dtype}; expected [n] integer row numbers.")
        if rows.min() < 0 or rows.max() >= num_rows:
            raise RequestError(f"{name} has row {rows.min()} … {rows.max()}; expected rows in [0, {num_rows}).")
        if len(np.unique(rows)) != rows.size:
            raise RequestError(f"{name} names a row twice.")
    both = np.intersect1d(forget, remain)
    if both.size:
        raise RequestError(f"{both.size} rows are in both forget and remain (first: {both[:5].tolist()}).")


def split_hash(forget, remain, scenario: str) -> str:
    """sha256 of the scenario and both parts as sorted little-endian int64."""
    found = hashlib.sha256(scenario.encode())
    for rows in (forget, remain):
        found.update(b"|" + np.sort(np.asarray(rows)).astype("<i8").tobytes())
    return found.hexdigest()


def _first(order, fraction):
    return order[: round(fraction * len(order))]
