"""The compiled steps of an unlearning run as shapes: what a plan needs, and what is checked before anything long."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clujax import data
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.plans import train_on
from clujax.adaptation.request import Request
from clujax.adaptation.settings import AUGMENTS, build_classifier, build_rules, lookup
from clujax.errors import ConfigError
from clujax.training import Outline, init_state, shardings
from clujax.training.sharding import ROW_AXES, batch_shardings
from clujax.unlearning.settings import methods_for

FORGET_SHARE = 0.1  # of the rows, where a request does not say


def outlines(
    config: ConfigDict, mesh: Mesh | None, rows: Mapping[str, Any] | None = None, num_classes: int | None = None
) -> list[Outline]:
    """Outline the steps that a run of this config compiles: training, and the methods of its first request.

    Without `rows` and `num_classes`, these are of the look of the named data set (`data.KNOWN`) or as `config.data.shape`,
    `.classes` and `.train_rows` say; the data need not be here, nor the devices of the mesh. The methods are
    `config.planned`, by default the one whose evidence is shown.

    Raises:
      ConfigError: a data set of unknown look, or a method whose preparing computes with the network's values.
    """
    rows, num_classes = _rows(config) if rows is None else (rows, num_classes)
    platform = None if mesh is None else mesh.devices.flat[0].platform
    classifier = build_classifier(config, {"x": _few(rows["x"])}, num_classes, platform)
    params, stats = jax.eval_shape(classifier.init, jax.random.key(0), _few(rows["x"]))
    request = config.requests[config.carry_out[0]]
    share = request.get("fraction") or FORGET_SHARE
    forget = max(1, int(share * len(rows["y"])))
    rows = {name: rows[name] for name in ("x", "y")}
    part = lambda count: {name: np.broadcast_to(c[:1], (count, *c.shape[1:])) for name, c in rows.items()}
    whole = Request(
        classifier,
        params,
        stats,
        part(forget),
        part(len(rows["y"]) - forget),
        num_classes,
        augment=AUGMENTS[config.data.augment],
        mesh=mesh,
        rules=build_rules(config),
        initial=params,
    )
    key = jax.random.key(0)
    found = _steps("pretrain", train_on(whole, rows, params, stats, key, **config.pretrain.to_dict()))
    methods = methods_for(config, request)
    for name in config.get("planned") or (config.evidence.method,):
        method = lookup(methods, name, "planned")
        if not isinstance(method, Method):
            method = next(iter(method.values()))  # a sweep: its candidates differ in numbers, not in shapes
        try:
            plan = method.prepare(whole, key)
        except TypeError as error:
            raise ConfigError(
                f"{name} computes with the network's values while it prepares, so its steps cannot be outlined; name "
                f"others in config.planned ({error!s:.80})"
            ) from error
        found += _steps(name, plan)
    return found


def check_layout(config: ConfigDict, mesh: Mesh | None, rows: Mapping[str, Any], num_classes: int) -> None:
    """Refuse rules and batch sizes that do not fit the mesh, before anything long.

    Raises:
      ConfigError: naming the rule or the setting.
    """
    parts = config.get("accumulate") or 1
    devices = 1 if mesh is None else math.prod(mesh.shape.get(axis, 1) for axis in ROW_AXES)
    sizes = {"pretrain": config.pretrain.get("batch_size")}
    sizes |= {f"methods.{name}": config.methods[name].get("batch_size") for name in config.compare}
    for where, size in sizes.items():
        if size and size % (parts * devices):
            read = f", each in {parts} parts (accumulate)" if parts > 1 else ""
            raise ConfigError(
                f"{where}.batch_size is {size}, which {devices} devices{read} cannot share evenly; "
                f"use a multiple of {parts * devices}"
            )
    if mesh is not None:
        for outline in outlines(config, mesh, rows, num_classes):
            shardings(outline.state, mesh, build_rules(config))
            batch_shardings(outline.batch, mesh)


def _steps(stage: str, plan: Plan) -> list[Outline]:
    """The steps of a plan of shapes."""
    like = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)
    start = lambda params, stats, key: init_state(params, stats, plan.tx, key)
    state = jax.eval_shape(start, plan.params, plan.stats, jax.random.key(0))
    counts, batches, seen = Counter(), {}, min(plan.num_steps, 100)
    for s in range(seen):
        for name, batch in plan.work(s):
            counts[name] += 1
            batches.setdefault(name, like(batch))
    scale = plan.num_steps / max(seen, 1)
    only = len(batches) == 1
    return [
        Outline(
            stage if only else f"{stage}/{name}", plan.steps[name], state, batch, _count(batch), counts[name] * scale
        )
        for name, batch in batches.items()
    ]


def _count(batch: Any) -> int:
    return max((leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape), default=0)


def _rows(config: ConfigDict) -> tuple[dict[str, np.ndarray], int]:
    """Rows of the right shape that take no memory, and the number of classes."""
    settings, known = config.data, data.KNOWN.get(config.data.name)
    look = known and known.look
    shape = settings.get("shape") or (look and look.shape)
    num_classes = settings.get("classes") or (look and look.num_classes)
    count = settings.get("train_rows") or (look and look.train_rows)
    if not (shape and num_classes and count):
        raise ConfigError(
            f"data.name is {settings.name!r}, whose look is not known; set data.shape, data.classes and data.train_rows."
        )
    shape, dtype = tuple(shape), np.dtype(look.dtype if look else "uint8")
    pool = settings.get("pool") or 1
    if pool > 1:
        shape, dtype = (shape[0] // pool, shape[1] // pool, *(shape[2:] or (1,))), np.dtype("float32")
    return {
        "x": np.broadcast_to(np.zeros((), dtype), (count, *shape)),
        "y": np.broadcast_to(np.zeros((), np.int32), (count,)),
    }, num_classes


def _few(x: np.ndarray) -> np.ndarray:
    """Two rows of two values, so that each channel has a spread to be standardised by."""
    return np.stack([np.zeros(x.shape[1:], x.dtype), np.ones(x.shape[1:], x.dtype)])
