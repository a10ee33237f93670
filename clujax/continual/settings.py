"""Names in a config become functions here, once: methods, streams, memory, and the scene of a data set."""

import json
import pkgutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from clujax import data
from clujax.adaptation.settings import (
    AUGMENTS,
    OBJECTIVES,
    SCHEDULES,
    build_classifier,
    build_mesh,
    build_rules,
    lookup,
    select_rows,
)
from clujax.continual import memory as memories
from clujax.continual import methods, objectives
from clujax.continual.head import growing
from clujax.continual.method import Method, Scene, replicated
from clujax.continual.request import Change, Request, check_request, standing_after
from clujax.continual.scenarios import make_stream
from clujax.errors import ConfigError

METHODS = {name: getattr(methods, name) for name in methods.__all__}
LEARN_OBJECTIVES = {
    "plain": objectives.plain_learning,
    "adaptive": objectives.adaptive_learning,
    "focal": objectives.focal_learning,
}
POLICIES = {"reservoir": memories.reservoir, "balanced": memories.balanced}


class Stage(NamedTuple):
    """What a config says before any seed is drawn: the rows, where they came from, and the network's scene."""

    scene: Scene
    test: Mapping[str, Any]
    source: data.Source
    classes: tuple[str, ...]


def stage_for(config: ConfigDict) -> Stage:
    """Load the rows of a config and lay them on the device.

    Raises:
      ConfigError, DataNotFoundError: as the data and the network are resolved.
    """
    dataset = data.load(config.data.name, path=config.data.path, fallback=config.data.fallback)
    train, test, _ = select_rows(dataset, config.data)
    mesh, rules = build_mesh(config), build_rules(config)
    columns = {name: jax.device_put(jnp.asarray(train[name]), replicated(mesh)) for name in ("x", "y")}
    classifier = build_classifier(config, train, len(dataset.classes))
    scene = Scene(
        growing(classifier, len(dataset.classes)) if config.get("grow_head") else classifier,
        columns,
        len(dataset.classes),
        augment=AUGMENTS[config.data.augment],
        policy=lookup(POLICIES, config.memory.policy, "memory.policy"),
        mesh=mesh,
        rules=rules,
    )
    return Stage(scene, test, dataset.source, dataset.classes)


def streams_for(config: ConfigDict, labels: np.ndarray, seed: int) -> dict[str, list[Request]]:
    """The streams that the config carries out, each checked from its first request to its last.

    Raises:
      ConfigError: a stream that does not begin by learning, or words that are none.
      RequestError: a request that its stream does not allow.
    """
    found = {}
    for name in config.carry_out:
        stream = lookup(config.streams, name, "carry_out")
        requests = make_stream(stream.words, labels, config.tasks, seed=seed, task_aware=stream.task_aware)
        if len(requests) < 2 or not len(requests[0].learn):
            raise ConfigError(f"streams.{name}.words must begin by learning and hold one more request at least.")
        changes_of(requests, len(labels), task_aware=stream.task_aware)
        found[name] = requests
    return found


def changes_of(requests: list[Request], count: int, *, task_aware: bool = False) -> list[Change]:
    """What each request of a stream changes, one after the other."""
    status, tasks, found = np.zeros(count, np.int8), np.full(count, -1, np.int32), []
    for request in requests:
        change = check_request(request, status, tasks=tasks, task_aware=task_aware)
        status = standing_after(status, change)
        tasks[change.learn] = -1 if change.task is None else change.task
        found.append(change)
    return found


def methods_for(config: ConfigDict, stream: ConfigDict, built: dict[str, Method] | None = None) -> dict[str, Method]:
    """The methods to compare over one stream, those of its `also` too; `override.<name>` of a stream replaces settings.

    Names whose settings are equal share one method, across the streams that share `built` too.

    Raises:
      ConfigError: a name or setting that is none; or no oracle to compare with.
    """
    found, built = {}, {} if built is None else built
    for name in (*config.compare, *stream.get("also", ())):
        values = lookup(config.methods, name, "compare").to_dict() | dict(stream.get("override", {}).get(name, {}))
        try:
            key = json.dumps({"method": name} | values, sort_keys=True)
            if key not in built:
                built[key] = build_method(name, values)
            found[name] = built[key]
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"methods.{name}: {error}") from error
        if found[name].replay == "memory" and config.memory.capacity < 1:
            raise ConfigError(
                f"methods.{name} keeps old rows by memory, whose capacity is {config.memory.capacity}: raise"
                " memory.capacity, or set the method's replay to 'remain'."
            )
    if "oracle" not in found:
        raise ConfigError("compare lacks 'oracle': every number is read against retraining. Add it.")
    if config.focus not in found:
        raise ConfigError(f"focus is {config.focus!r}; expected one of {', '.join(found)}.")
    return found


def build_method(name: str, settings: Mapping[str, Any]) -> Method:
    """One method from its section of a config; `method` says which, where the section's name does not.

    Raises:
      ConfigError: a name that is none.
      TypeError, ValueError: settings that the method refuses.
    """
    values = dict(settings)
    make = lookup(METHODS, values.pop("method", name), f"methods.{name}.method")
    if "schedule" in values:
        values["schedule"] = lookup(SCHEDULES, values["schedule"], f"methods.{name}.schedule")
    for key, table in (("objective", OBJECTIVES), ("learn_objective", LEARN_OBJECTIVES)):
        if key in values:
            options = dict(values[key])
            values[key] = lookup(table, options.pop("name"), f"methods.{name}.{key}.name")(**options)
    if "learn" in values:
        values["learn"] = build_method(f"{name}.learn", values["learn"])
    if "unlearning" in values:
        values["unlearning"] = _elsewhere(f"methods.{name}.unlearning", values["unlearning"])
    return make(**values)


def _elsewhere(where: str, settings: Mapping[str, Any]) -> Any:
    """A method of another room, named as `package:function` with its settings."""
    values = dict(settings)
    reference = values.pop("method", None)
    try:
        make = pkgutil.resolve_name(reference)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where}.method is {reference!r}; expected package:function, for example 'clujax.unlearning:salun'. ({error})"
        ) from error
    return make(**values)
