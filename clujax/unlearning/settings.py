"""Names in a config become functions here, once, and a data set becomes the rows of a run."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from clujax import data, models
from clujax.errors import ConfigError
from clujax.unlearning import methods, schedules
from clujax.unlearning.cases import take_rows
from clujax.unlearning.losses import adaptive_ascent, random_relabel
from clujax.unlearning.method import Method
from clujax.unlearning.methods.rum import rum_from

METHODS = {
    "retrain": methods.retrain,
    "finetune": methods.finetune,
    "gradient_ascent": methods.gradient_ascent,
    "random_label": methods.random_label,
    "salun": methods.salun,
    "scrub": methods.scrub,
    "bad_teacher": methods.bad_teacher,
    "muso": methods.muso,
    "boundary_expand": methods.boundary_expand,
    "boundary_shrink": methods.boundary_shrink,
    "fisher_forgetting": methods.fisher_forgetting,
    "influence": methods.influence,
    "l1_sparse": methods.l1_sparse,
    "cf_k": methods.cf_k,
    "eu_k": methods.eu_k,
    "neg_grad_plus": methods.neg_grad_plus,
    "npo": methods.npo,
    "sim_npo": methods.sim_npo,
    "ntk": methods.ntk,
    "ssd": methods.ssd,
    "unsir": methods.unsir,
    "scrub_r": methods.scrub_r,
    "sfron": methods.sfron,
    "euclidean": methods.euclidean,
    "fixed_fisher": methods.fixed_fisher,
    "remain_newton": methods.remain_newton,
}
MODELS = {"mlp": models.mlp, "cnn": models.cnn, "resnet": models.resnet, "vit": models.vit}
SCHEDULES = {name: getattr(schedules, name) for name in ("constant", "cosine", "linear", "quadratic")}
OBJECTIVES = {"adaptive_ascent": adaptive_ascent, "random_relabel": random_relabel}
RIDGES = {"published": methods.published_ridge}
AUGMENTS = {"none": None, "crop_flip": data.crop_flip}


def methods_for(config: ConfigDict, request: ConfigDict) -> dict[str, Method | dict[str, Method]]:
    """The methods to compare on one request; `request.override.<name>` replaces settings of `methods.<name>`.

    A method with a section `sweep` (`{"learning_rate": (0.01, 0.03)}`) is a choice among candidates, by what they set.
    """
    override = request.get("override", {})
    found: dict[str, Method | dict[str, Method]] = {}
    for name in (*config.compare, *request.get("also", ())):
        values = lookup(config.methods, name, "compare").to_dict() | dict(override.get(name, {}))
        swept = values.pop("sweep", {})
        try:
            if swept:
                found[name] = {
                    ", ".join(f"{key} {value}" for key, value in zip(swept, chosen)): build_method(
                        name, values | dict(zip(swept, chosen))
                    )
                    for chosen in itertools.product(*swept.values())
                }
            else:
                found[name] = build_method(name, values)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"methods.{name}: {error}") from error
    if not isinstance(found.get("retrain"), Method):
        raise ConfigError("compare lacks 'retrain': every number is read against the retrained network. Add it.")
    if config.evidence.method not in found:
        raise ConfigError(
            f"evidence.method is {config.evidence.method!r}; expected one of compare: {', '.join(found)}."
        )
    if any(isinstance(method, dict) for method in found.values()) and not config.data.get("validation_rows"):
        raise ConfigError("a sweep chooses on validation rows: set data.validation_rows, or remove methods.*.sweep.")
    return found


def build_method(name: str, settings: Mapping[str, Any]) -> Method:
    """One method from its section of a config; `method` says which, where the section's name does not.

    Raises:
      ConfigError: a name that is none.
      TypeError, ValueError: settings that the method refuses.
    """
    values = dict(settings)
    kind = values.pop("method", name)
    if kind == "rum":
        return rum_from(values.pop("parts", ()), lambda part: build_method(part.get("method"), part), **values)
    make = lookup(METHODS, kind, f"methods.{name}.method")
    if "schedule" in values:
        values["schedule"] = lookup(SCHEDULES, values["schedule"], f"methods.{name}.schedule")
    if callable(RIDGES.get(values.get("ridge"))):
        values["ridge"] = RIDGES[values["ridge"]]
    if "objective" in values:
        objective = dict(values["objective"])
        kind_of = lookup(OBJECTIVES, objective.pop("name"), f"methods.{name}.objective.name")
        values["objective"] = kind_of(**objective)
    return make(**values)


def lookup(table: Mapping[str, Any] | ConfigDict, name: str, where: str) -> Any:
    """The function a config names."""
    if name not in table:
        raise ConfigError(f"{where} is {name!r}; expected one of {', '.join(sorted(table))}.")
    return table[name]


def select_rows(dataset: data.Dataset, settings: ConfigDict):
    """Training, test and validation rows: the first `train_rows` and `test_rows`, or all.

    Training rows are taken in a seeded order when `order_seed` is given; `validation_rows` follow them, and are never
    trained on. `pool` averages squares of that many pixels.
    """
    train, test = dict(dataset.train), dict(dataset.test)
    if settings.get("order_seed") is not None:
        train = take_rows(train, np.random.default_rng(settings.order_seed).permutation(len(train["y"])))
    sides, held = [], settings.get("validation_rows") or 0
    for name, columns in (("train", train), ("test", test)):
        limit = len(columns["y"]) - (held if name == "train" else 0)
        count = settings[f"{name}_rows"] or limit
        if not 0 < count <= limit:
            less = f", {held} of them for validation" if held and name == "train" else ""
            raise ConfigError(
                f"data.{name}_rows is {count}; {settings.name} has {len(columns['y'])} {name} rows{less}."
            )
        sides.append(_pooled(take_rows(columns, slice(count)), settings.get("pool") or 1))
    count = len(sides[0]["y"])
    after = _pooled(take_rows(train, slice(count, count + held)), settings.get("pool") or 1)
    return *sides, after if held else None


def _pooled(columns, size):
    """Images averaged over squares of `size` pixels, in [0, 1]; as they are for 1."""
    if size == 1:
        return columns
    x = np.asarray(columns["x"], np.float32)
    x = x if x.ndim == 4 else x[..., None]
    if x.shape[1] % size or x.shape[2] % size:
        raise ConfigError(f"data.pool is {size}; expected a divisor of the images' {x.shape[1]} × {x.shape[2]} pixels.")
    x = x.reshape(len(x), x.shape[1] // size, size, x.shape[2] // size, size, -1).mean((2, 4)) / 255
    return columns | {"x": x}


def _unit(x):
    return x / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x


INPUTS = ("standardize", "unit")


def build_classifier(config: ConfigDict, train: Mapping[str, Any], num_classes: int) -> models.Classifier:
    """The network behind a standardisation by the training rows' mean and spread per channel, or behind nothing."""
    settings = config.model
    options = {key: value for key, value in settings.items() if key != "name"}
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    network = lookup(MODELS, settings.name, "model.name")(num_classes=num_classes, **options)
    inputs = config.data.get("inputs") or "standardize"
    if inputs not in INPUTS:
        raise ConfigError(f"data.inputs is {inputs!r}; expected one of {INPUTS}.")
    if inputs == "unit":
        return models.with_inputs(network, _unit)
    x = np.asarray(train["x"])
    x = x if x.ndim == 4 else x[..., None]
    mean, std = x.mean((0, 1, 2), dtype=np.float64), x.std((0, 1, 2), dtype=np.float64)
    return models.with_inputs(network, data.standardize(mean, std))
