"""Which rows are forgotten: splits by scenario, checked and hashed."""

import hashlib
import inspect
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from clujax.errors import RequestError


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
    coarse_map: Sequence[int] | np.ndarray | None = None,
    target: int | None = None,
    scores: Sequence[float] | np.ndarray | None = None,
    stratum: int | str | None = None,
    strata: int | None = None,
    count: int | None = None,
    groups: Sequence | np.ndarray | None = None,
    members: Sequence | np.ndarray | None = None,
) -> Split:
    """Choose the rows to forget.

    Args:
      labels: `[N]` integer labels of all training rows, as they are before any row is confused or poisoned.
      scenario: and what it needs:
        "random": a `fraction` of all rows (of each class alike when `stratified`);
        "class": every row of `classes`;
        "incremental": slice `step` (0, 1, …) of `steps` slices of a seeded permutation of a `fraction` of the rows (all of
        them by default); slices before it are in neither part, having been forgotten;
        "subclass": every row of the fine `classes`, where `labels` are fine and `coarse_map[fine]` is what is predicted;
        "confused": a `fraction` of the rows of each of the two `classes`, whose labels are to be exchanged;
        "poisoned": a `fraction` of the rows of all classes but `target`, the class that a trigger is to stand for;
        "memorization": rows are ordered by `scores` `[N]` (ties by row number) and cut into `strata` (3 by default) equal
        parts; of part `stratum`, a number or one of "low", "mid", "high", all rows are forgotten, or the `fraction` or
        `count` of them that lies lowest in the lowest part, highest in the highest and evenly between in the others;
        "group": every row whose entry of `groups` `[N]` (users, writers, sites) is one of `members`.
      seed: of the permutation; memorization, class, subclass and group splits draw nothing.

    Raises:
      RequestError: an argument is missing, out of range or of no use to the scenario, a class or member is absent, or a
        part would be empty.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise RequestError(f"labels has shape {labels.shape}, dtype {labels.dtype}; expected [N] integers.")
    if seed < 0:
        raise RequestError(f"seed is {seed}; expected at least 0.")
    if scenario not in _CHOOSE:
        raise RequestError(f"scenario is {scenario!r}; expected one of {SCENARIOS}.")
    given = {
        "fraction": fraction,
        "classes": classes,
        "step": step,
        "steps": steps,
        "stratified": stratified or None,
        "coarse_map": coarse_map,
        "target": target,
        "scores": scores,
        "stratum": stratum,
        "strata": strata,
        "count": count,
        "groups": groups,
        "members": members,
    }
    given = {name: value for name, value in given.items() if value is not None}
    check_options(scenario, given)
    order = np.random.default_rng(seed).permutation(len(labels))
    forget, gone = _CHOOSE[scenario](labels, order, **given)
    return finish_split(forget, len(labels), scenario, gone)


def finish_split(forget, num_rows: int, scenario: str, gone=()) -> Split:
    """The split that forgets some rows and keeps all others but those that are `gone`: checked, ordered and hashed.

    Raises:
      RequestError: a part is empty, repeats a row or points outside `[0, num_rows)`.
    """
    forget = np.sort(np.asarray(forget))
    remain = np.setdiff1d(np.arange(num_rows), np.concatenate([forget, np.asarray(gone, int)]))
    check_split(forget, remain, num_rows)
    if len(forget) > num_rows / 2:
        warnings.warn(f"{len(forget)} of {num_rows} rows are to be forgotten, more than half.", stacklevel=3)
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


def check_options(scenario: str, given) -> None:
    """Refuse options that a scenario has no use for: a split that ignored them would not be the one that was meant.

    Raises:
      RequestError: naming them and those that the scenario takes.
    """
    takes = [name for name in inspect.signature(_CHOOSE[scenario]).parameters if name not in ("labels", "order")]
    useless = sorted(set(given) - set(takes))
    if useless:
        raise RequestError(f"a {scenario} split has no use for {', '.join(useless)}; it takes {', '.join(takes)}.")


def check_fraction(fraction, scenario: str, whole: bool = False) -> None:
    """Refuse what is no fraction of rows; all of them only where `whole`.

    Raises:
      RequestError: naming the fraction.
    """
    if fraction is None or not (0 < fraction < 1 or (whole and fraction == 1)):
        raise RequestError(f"fraction is {fraction}; a {scenario} split needs a number in (0, 1).")


def check_classes(labels, classes, scenario: str, leave: bool = True) -> None:
    """Refuse classes that are no list, are absent, or leave no other class when `leave`.

    Raises:
      RequestError: naming the classes and the labels there are.
    """
    if classes is None or np.ndim(classes) != 1 or not len(classes):
        raise RequestError(f"classes is {classes}; a {scenario} split needs a list of the labels to forget.")
    present = np.unique(labels).tolist()
    absent = sorted(set(classes) - set(present))
    if absent:
        raise RequestError(f"classes {absent} are absent; the labels present are {present}.")
    if leave and set(classes) >= set(present):
        raise RequestError(f"remain is empty: classes {list(classes)} are all there are; leave at least one.")


def _first(order, fraction):
    return order[: round(fraction * len(order))]


def _random(labels, order, fraction=None, stratified=False):
    check_fraction(fraction, "random")
    if not stratified:
        return _first(order, fraction), ()
    return np.concatenate([_first(order[labels[order] == c], fraction) for c in np.unique(labels)]), ()


def _class(labels, order, classes=None):
    check_classes(labels, classes, "class")
    return np.flatnonzero(np.isin(labels, list(classes))), ()


def _incremental(labels, order, fraction=1.0, step=None, steps=None):
    check_fraction(fraction, "incremental", whole=True)
    if not steps or step is None or not 0 <= step < steps:
        raise RequestError(f"step is {step} of steps {steps}; an incremental split needs 0 <= step < steps.")
    slices = np.array_split(_first(order, fraction), steps)
    return slices[step], np.concatenate([np.array([], int), *slices[:step]])


def _subclass(labels, order, classes=None, coarse_map=None):
    coarse = check_coarse_map(coarse_map, labels)
    check_classes(labels, classes, "subclass")
    forget = np.isin(labels, list(classes))
    whole = np.setdiff1d(coarse[labels[forget]], coarse[labels[~forget]])
    if whole.size:
        warnings.warn(
            f"fine classes {list(classes)} are all there is of coarse classes {whole.tolist()}: these are forgotten whole,"
            " which makes this a class request.",
            stacklevel=3,
        )
    return np.flatnonzero(forget), ()


def check_coarse_map(coarse_map, labels) -> np.ndarray:
    """`[F]` coarse labels of the fine labels 0 … F−1, F beyond every label.

    Raises:
      RequestError: it is missing, not such an array, or too short for a label.
    """
    coarse = None if coarse_map is None else np.asarray(coarse_map)
    if coarse is None or coarse.ndim != 1 or coarse.dtype.kind not in "iu" or not coarse.size or coarse.min() < 0:
        raise RequestError(
            f"coarse_map is {coarse_map}; a subclass split needs a list of one coarse label, at least 0, per fine label."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < len(coarse):
        raise RequestError(
            f"coarse_map has {len(coarse)} entries; fine labels are in [{labels.min()}, {labels.max()}], which needs"
            f" {labels.max() + 1}."
        )
    return coarse


def _confused(labels, order, classes=None, fraction=None):
    check_fraction(fraction, "confused")
    if classes is None or np.ndim(classes) != 1 or len(classes) != 2 or classes[0] == classes[1]:
        raise RequestError(f"classes is {classes}; a confused split needs the two classes whose labels are exchanged.")
    check_classes(labels, classes, "confused", leave=False)
    parts = {c: _first(order[labels[order] == c], fraction) for c in classes}
    empty = [c for c, rows in parts.items() if not rows.size]
    if empty:
        raise RequestError(f"forget is empty of classes {empty}: a fraction {fraction} of their rows is not one row.")
    return np.concatenate(list(parts.values())), ()


def _poisoned(labels, order, fraction=None, target=None):
    check_fraction(fraction, "poisoned")
    present = np.unique(labels).tolist()
    if target is None or target not in present:
        raise RequestError(f"target is {target}; a poisoned split needs one of the labels present: {present}.")
    return _first(order[labels[order] != target], fraction), ()


def _memorization(labels, order, scores=None, stratum=None, strata=3, fraction=None, count=None):
    values = None if scores is None else np.asarray(scores)
    if (
        values is None
        or values.shape != labels.shape
        or values.dtype.kind not in "iuf"
        or not np.isfinite(values).all()
    ):
        came = "None" if values is None else f"of shape {values.shape}, dtype {values.dtype}"
        raise RequestError(f"scores is {came}; a memorization split needs [{len(labels)}] finite numbers, one per row.")
    if not 2 <= strata <= max(2, len(labels)):
        raise RequestError(f"strata is {strata}; expected from 2 to the number of rows {len(labels)}.")
    number = ("low", "mid", "high").index(stratum) if strata == 3 and stratum in ("low", "mid", "high") else stratum
    if not isinstance(number, int | np.integer) or not 0 <= number < strata:
        raise RequestError(f"stratum is {stratum!r}; expected 0 … {strata - 1}, or low, mid or high of 3 strata.")
    rows = np.array_split(np.argsort(values, kind="stable"), strata)[number]
    if fraction is not None and count is not None:
        raise RequestError(f"fraction {fraction} and count {count} are both given; give one, or neither for all rows.")
    if fraction is not None:
        check_fraction(fraction, "memorization", whole=True)
        count = round(fraction * len(rows))
    count = len(rows) if count is None else count
    if not 0 <= count <= len(rows):
        raise RequestError(f"count is {count}; stratum {stratum} has {len(rows)} rows.")
    start = round((len(rows) - count) * number / (strata - 1))
    return rows[start : start + count], ()


def _group(labels, order, groups=None, members=None):
    groups = None if groups is None else np.asarray(groups)
    if groups is None or groups.shape != labels.shape:
        came = "None" if groups is None else f"of shape {groups.shape}"
        raise RequestError(f"groups is {came}; a group split needs [{len(labels)}] names or numbers, one per row.")
    if members is None or np.ndim(members) != 1 or not len(members):
        raise RequestError(f"members is {members}; a group split needs a list of the groups to forget.")
    present = np.unique(groups).tolist()
    absent = [member for member in members if member not in present]
    if absent:
        more = f", … ({len(present)} of them)" if len(present) > 10 else ""
        raise RequestError(f"members {absent} are absent; the groups present are {str(present[:10])[1:-1]}{more}.")
    if set(members) >= set(present):
        raise RequestError(f"remain is empty: members {list(members)} are all there are; leave at least one.")
    return np.flatnonzero(np.isin(groups, list(members))), ()


_CHOOSE = {
    "random": _random,
    "class": _class,
    "incremental": _incremental,
    "subclass": _subclass,
    "confused": _confused,
    "poisoned": _poisoned,
    "memorization": _memorization,
    "group": _group,
}
SCENARIOS = tuple(_CHOOSE)
