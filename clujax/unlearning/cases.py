"""The rows that a request is carried out on: which go, and every row and label as that request has them."""

import inspect
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from clujax import data
from clujax.data import take_rows
from clujax.errors import RequestError

NOTHING: Mapping = MappingProxyType({})


class Case(NamedTuple):
    """One request on one seed: which rows go, and the rows and classes as that request has them.

    Attributes:
      split: row numbers of `train` to forget and to keep.
      train, test: columns; labels and inputs as the original network is trained on them.
      num_classes: C of this case.
      own_network: whether the original network must be trained for this request alone.
      extra: further rows to ask every network about, by name: "triggered" (poisoned: test rows of other classes than the
        target, with the trigger on and their true labels), "unseen_subclass" (subclass: test rows of the forgotten fine
        classes, also among `test`), "validation" (rows of published splits that are neither trained on nor tested on).
      facts: what measures of this scenario need: "confused" (a, b), "target", "subclass" (fine classes), "stratum",
        "members"; of published splits their name "published" and, in the data set's own row numbers, "published_hash".
    """

    split: data.Split
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    num_classes: int
    own_network: bool = False
    extra: Mapping[str, Mapping[str, Any]] = NOTHING
    facts: Mapping[str, Any] = NOTHING


def case_for(
    request: ConfigDict | Mapping,
    train: Mapping,
    test: Mapping,
    num_classes: int,
    seed: int,
    validation: Mapping | None = None,
) -> Case:
    """The rows of one request, drawn with the run's seed.

    Args:
      request: `scenario` and its options as `clujax.data.make_split` takes them; `label`, `also`, `override` are not.
        `scores` and `groups` may be the name of a training column, or an array or an .npy file of one entry per raw row;
        `coarse_map` may be "cifar100"; a poisoned request may have `trigger`, options of `stamp`. The scenario "official"
        takes `name`, one of `clujax.data.PUBLISHED`, and that function's options (`rows` may be an .npy file); it is the
        published split for every seed of the run unless the request has its own `seed`. Rows are then numbered by their
        `index`, in whatever order they come; of a part of the data the same law is drawn, but not the published rows.
      train, test: columns `x`, `y`, and `index`, the raw row; without `index` rows are raw rows.
      validation: rows that are neither trained on nor tested on; they become `extra["validation"]` with the case's labels,
        unless the published split has its own.

    Raises:
      RequestError: the request cannot be carried out on these rows.
    """
    options = {key: value for key, value in request.items() if key not in ("override", "label", "also")}
    scenario = options.pop("scenario", None)
    if scenario not in BUILD:
        raise RequestError(f"scenario is {scenario!r}; expected one of {', '.join(BUILD)}.")
    case = BUILD[scenario](scenario, options, train, test, num_classes, seed)
    if validation is None or "validation" in case.extra:
        return case
    if scenario == "subclass":
        validation = _coarsened(validation, _coarse_map(request))
    return case._replace(extra=dict(case.extra) | {"validation": validation})


def stamp(
    images: Num[np.ndarray, "n h w *c"], *, size: int = 4, value: float = 1.0, margin: int = 2
) -> Num[np.ndarray, "n h w *c"]:
    """Put a trigger on images: a square near the lower right corner is set to one value in all channels.

    The published attack on CIFAR has a black square: `value=0`. Training augmentation shifts and mirrors it with its image.

    Args:
      images: of any numeric type; untouched, what is returned is a copy.
      size: of the square's side in pixels.
      value: 0 is black and 1 white; integer images run to the largest value of their type, others to 1.
      margin: pixels between the square and the two edges.

    Raises:
      RequestError: the square does not lie in the image, or value is not in [0, 1].
    """
    height, width = images.shape[1:3]
    if size < 1 or margin < 0 or size + margin > min(height, width):
        raise RequestError(
            f"trigger has size {size}, margin {margin}; it must lie in images of {height} × {width} pixels."
        )
    if not 0 <= value <= 1:
        raise RequestError(f"trigger value is {value}; expected a number from 0, black, to 1, white.")
    full = np.iinfo(images.dtype).max if np.issubdtype(images.dtype, np.integer) else 1
    marked = images.copy()
    marked[:, height - margin - size : height - margin, width - margin - size : width - margin] = value * full
    return marked


def _plain(scenario, options, train, test, num_classes, seed):
    facts = {}
    if scenario == "memorization":
        options["scores"] = _per_row("scores", options.get("scores"), train)
        facts = {"stratum": options.get("stratum")}
    elif scenario == "group":
        options["groups"] = _per_row("groups", options.get("groups"), train)
        facts = {"members": options.get("members")}
    return Case(_split(scenario, options, train, seed), train, test, num_classes, facts=facts)


def _subclass(scenario, options, train, test, num_classes, seed):
    options["coarse_map"] = coarse = _coarse_map(options)
    split = _split(scenario, options, train, seed)
    if num_classes > len(coarse):
        raise RequestError(f"coarse_map has {len(coarse)} entries; the data has {num_classes} fine classes.")
    classes = tuple(int(c) for c in options["classes"])
    gone = np.isin(test["y"], classes)
    train, test = _coarsened(train, coarse), _coarsened(test, coarse)
    extra = {"unseen_subclass": take_rows(test, gone)} if gone.any() else NOTHING
    return Case(split, train, test, int(max(coarse)) + 1, True, extra, {"subclass": classes})


def _coarse_map(options):
    """The coarse label of each fine one, as given or by name."""
    given = options.get("coarse_map")
    if not isinstance(given, str):
        return given
    if given != "cifar100":
        raise RequestError(f"coarse_map is {given!r}; expected 'cifar100' or a list of coarse labels.")
    return data.CIFAR100_COARSE


def _coarsened(rows, coarse):
    """The rows with coarse labels."""
    return dict(rows) | {"y": np.asarray(coarse)[rows["y"]].astype(rows["y"].dtype)}


def _confused(scenario, options, train, test, num_classes, seed):
    split = _split(scenario, options, train, seed)
    a, b = (int(c) for c in options["classes"])
    y = np.array(train["y"])
    y[split.forget] = a + b - y[split.forget]
    return Case(split, dict(train) | {"y": y}, test, num_classes, True, facts={"confused": (a, b)})


def _poisoned(scenario, options, train, test, num_classes, seed):
    trigger = dict(options.pop("trigger", {}))
    _check_keywords(stamp, trigger, "trigger")
    split = _split(scenario, options, train, seed)
    target = int(options["target"])
    x, y = np.array(train["x"]), np.array(train["y"])
    if x.ndim not in (3, 4):
        raise RequestError(f"x has shape {x.shape}; a trigger is put on images [N, H, W] or [N, H, W, C].")
    x[split.forget] = stamp(x[split.forget], **trigger)
    y[split.forget] = target
    others = take_rows(test, np.asarray(test["y"]) != target)
    if not len(others["y"]):
        raise RequestError(f"all test rows are of class {target}, the target; whether the trigger works needs others.")
    triggered = others | {"x": stamp(np.asarray(others["x"]), **trigger)}
    poisoned = dict(train) | {"x": x, "y": y}
    return Case(split, poisoned, test, num_classes, True, {"triggered": triggered}, {"target": target})


def _official(scenario, options, train, test, num_classes, seed):
    name = options.pop("name", None)
    if name not in data.PUBLISHED:
        raise RequestError(f"official name is {name!r}; expected one of {', '.join(data.PUBLISHED)}.")
    draw, extra = data.PUBLISHED[name], {}
    if name == "kit":
        # The starting kit's seed is that of its test rows: it tests on a half of them and validates with the other.
        halves = {"seed": options.pop("seed")} if "seed" in options else {}
        if options.get("rows") is None:
            raise RequestError("kit needs rows: the path of its index file forget_idx.npy, or its row numbers.")
        if isinstance(options["rows"], str):
            options["rows"] = _read("rows", options["rows"])
        half, other = (_raw_order(test)[part] for part in data.kit_halves(len(test["y"]), **halves))
        test, extra = take_rows(test, half), {"validation": take_rows(test, other)}
    _check_keywords(draw, options, name)
    order = _raw_order(train)
    published = draw(np.asarray(train["y"])[order], **options)
    facts = {"published": name, "published_hash": published.hash}
    forget, remain = order[published.forget], order[published.remain]
    out = np.setdiff1d(order, np.concatenate([forget, remain]))
    if name != "salun" or not out.size:
        split = data.finish_split(forget, len(order), name, out)
        return Case(split, train, test, num_classes, extra=extra, facts=facts)
    # What salun holds out is trained on by no network: the case is of the other rows alone and numbers them anew.
    rows = np.setdiff1d(order, out)
    split = data.finish_split(np.searchsorted(rows, forget), len(rows), name)
    extra = {"validation": take_rows(train, out)}
    return Case(split, take_rows(train, rows), test, num_classes, True, extra, facts)


def _raw_order(columns):
    """Positions of the rows in the order of their raw numbers, by which published code numbers them."""
    return np.argsort(columns["index"]) if "index" in columns else np.arange(len(columns["y"]))


BUILD: dict[str, Callable[..., Case]] = dict.fromkeys(data.SCENARIOS, _plain) | {
    "subclass": _subclass,
    "confused": _confused,
    "poisoned": _poisoned,
    "official": _official,
}


def _split(scenario, options, train, seed):
    _check_keywords(data.make_split, options, f"a {scenario} request")
    return data.make_split(train["y"], scenario, **{"seed": seed} | options)


def _check_keywords(function, options, who):
    """Refuse options that a function does not know, by name."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RequestError(f"{who} has {', '.join(map(repr, unknown))}; it takes {', '.join(known)}.")


def _per_row(name, values, train):
    """A column of the training rows by name, or entries of the raw rows, from an array or a file, at the rows there are."""
    if values is None:
        return None
    if isinstance(values, str):
        if values in train:
            return np.asarray(train[values])
        values = _read(name, values)
    values, rows = np.asarray(values), np.asarray(train["index"] if "index" in train else np.arange(len(train["y"])))
    if values.ndim != 1 or (rows.size and rows.max() >= len(values)):
        raise RequestError(
            f"{name} has shape {values.shape}; it needs one entry per raw row, at least {rows.max() + 1}."
        )
    return values[rows]


def _read(name, path):
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".npy" or not path.is_file():
        raise RequestError(f"{name} is {str(path)!r}; expected an .npy file that is there.")
    return np.load(path, allow_pickle=False)
