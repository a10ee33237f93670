"""Names in a config become functions here, once, and a data set becomes the rows of a run."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clujax import data, models, training
from clujax.adaptation import schedules
from clujax.adaptation.losses import adaptive_ascent, random_relabel
from clujax.errors import ConfigError

MODELS = {"mlp": models.mlp, "cnn": models.cnn, "resnet": models.resnet, "vit": models.vit}
SCHEDULES = {name: getattr(schedules, name) for name in ("constant", "cosine", "linear", "quadratic")}
OBJECTIVES = {"adaptive_ascent": adaptive_ascent, "random_relabel": random_relabel}
STRATEGIES = {
    "replicate": training.replicate,
    "fsdp": training.fsdp,
    "tensor": training.tensor,
    "partition": training.partition,
}
AUGMENTS = {"none": None, "crop_flip": data.crop_flip}


def lookup(table: Mapping[str, Any] | ConfigDict, name: str, where: str) -> Any:
    """The function a config names."""
    if name not in table:
        raise ConfigError(f"{where} is {name!r}; expected one of {', '.join(sorted(table))}.")
    return table[name]


def build_mesh(config: ConfigDict) -> Mesh | None:
    """The devices on the axes of `config.mesh`; None for the default device alone: no axes, or no other device.

    Raises:
      ConfigError: as `clujax.training.make_mesh`, or no axes where there are many processes.
    """
    if not config.mesh and jax.process_count() > 1:
        raise ConfigError(
            f'config.mesh is empty, and {jax.process_count()} processes share this run; give axes: (("data", -1),)'
        )
    if not config.mesh or jax.device_count() == 1:
        return None
    return training.make_mesh(config.mesh)


def build_rules(config: ConfigDict) -> training.sharding.Rules | None:
    """The layout that `config.rules` asks for: (pattern, strategy, its arguments ...) each.

    For example `(("query/kernel", "partition", "fsdp", "model", None), (".*", "fsdp"))`; None where it asks for none.

    Raises:
      ConfigError: a rule of another form, a strategy that is none, or a pattern that is no regular expression.
    """
    if not config.get("rules"):
        return None
    found = []
    for rule in config.rules:
        if isinstance(rule, str) or len(rule) < 2:
            raise ConfigError(f"rules has {rule!r}; expected (pattern, strategy, arguments ...).")
        pattern, name, *arguments = rule
        strategy = lookup(STRATEGIES, name, f"the strategy of rule {pattern!r}")
        try:
            re.compile(pattern)
            found.append((pattern, strategy(*arguments)))
        except (re.error, TypeError) as error:
            raise ConfigError(f"the rule {tuple(rule)!r} cannot be read: {error}") from error
    return tuple(found)


def checkpoint_options(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.checkpoints` as options of `training.Checkpoints` (keep, keep_every) and of `training.fit` (grace_seconds).

    Raises:
      ConfigError: another key.
    """
    keep = dict(config.get("checkpoints") or {})
    fit = {name: keep.pop(name) for name in ("grace_seconds",) if name in keep}
    for name in keep:
        lookup({"keep": 0, "keep_every": 0, "grace_seconds": 0}, name, "a key of checkpoints")
    return keep, fit


def select_rows(dataset: data.Dataset, settings: ConfigDict):
    """Training, test and validation rows: the first `train_rows` and `test_rows`, or all.

    Training rows are taken in a seeded order when `order_seed` is given; `validation_rows` follow them, and are never
    trained on. `pool` averages squares of that many pixels.
    """
    train, test = dict(dataset.train), dict(dataset.test)
    if settings.get("order_seed") is not None:
        train = data.take_rows(train, np.random.default_rng(settings.order_seed).permutation(len(train["y"])))
    sides, held = [], settings.get("validation_rows") or 0
    for name, columns in (("train", train), ("test", test)):
        limit = len(columns["y"]) - (held if name == "train" else 0)
        count = settings[f"{name}_rows"] or limit
        if not 0 < count <= limit:
            less = f", {held} of them for validation" if held and name == "train" else ""
            raise ConfigError(
                f"data.{name}_rows is {count}; {settings.name} has {len(columns['y'])} {name} rows{less}."
            )
        sides.append(_pooled(data.take_rows(columns, slice(count)), settings.get("pool") or 1))
    count = len(sides[0]["y"])
    if not held:
        return *sides, None
    return *sides, _pooled(data.take_rows(train, slice(count, count + held)), settings.get("pool") or 1)


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


def build_classifier(
    config: ConfigDict, train: Mapping[str, Any], num_classes: int, platform: str | None = None
) -> models.Classifier:
    """The network behind a standardisation by the training rows' mean and spread per channel, or behind nothing.

    Of rows on disk, 10,000 tell mean and spread. `config.accumulate` is the number of parts in which it reads a batch;
    `platform` is that of the devices it is for.
    """
    settings = config.model
    options = {key: value for key, value in settings.items() if key != "name"}
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    network = lookup(MODELS, settings.name, "model.name")(num_classes=num_classes, **options)
    # A loop over parts is slow for convolutions on a CPU, and lets an accelerator reuse the memory of a part.
    network = models.microbatched(network, config.get("accumulate") or 1, unroll=training.default_block(platform) == 1)
    inputs = config.data.get("inputs") or "standardize"
    if inputs not in INPUTS:
        raise ConfigError(f"data.inputs is {inputs!r}; expected one of {INPUTS}.")
    if inputs == "unit":
        return models.with_inputs(network, _unit)
    x = data.spread(train["x"])
    x = x if x.ndim == 4 else x[..., None]
    mean, std = x.mean((0, 1, 2), dtype=np.float64), x.std((0, 1, 2), dtype=np.float64)
    return models.with_inputs(network, data.standardize(mean, std))
