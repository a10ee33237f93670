"""The methods that a config names become functions here, once."""

import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clujax.adaptation.method import Method
from clujax.adaptation.settings import OBJECTIVES, SCHEDULES, lookup
from clujax.errors import ConfigError
from clujax.unlearning import methods
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
RIDGES = {"published": methods.published_ridge}


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
