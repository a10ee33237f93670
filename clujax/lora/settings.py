"""Names in a config become functions here, once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from clujax.adaptation.settings import lookup
from clujax.errors import ConfigError
from clujax.geometry import elementwise, normal, rademacher, together, uniform, vector_norm
from clujax.lora import initializations, sam
from clujax.lora.flat import constant_std
from clujax.lora.rules import LoraRule, rank_stabilized, standard
from clujax.lora.steps import make_step
from clujax.lora.tasks import images, photos, texts
from clujax.transforms import cosine_increase

TASKS = {"images": images, "photos": photos, "texts": texts}
SAMPLERS = {"normal": normal, "rademacher": rademacher, "uniform": uniform}
SCALINGS = {"standard": standard, "rank_stabilized": rank_stabilized}
INITS = {name: getattr(initializations, name) for name in ("kaiming", "gaussian", "he", "olora")}
INITS["pissa"] = initializations.pissa()
EXTRAS = {"elementwise": elementwise(), "vector_norm": together(vector_norm(), elementwise())}
ALLOWED = ("objective", "rank", "alpha", "scaling", "init", "magnitude", "sigma", "rho", "sampler", "extra", "label")


class Variant(NamedTuple):
    """One row of a comparison: how the adapters are made, and how they are trained."""

    label: str
    rules: tuple[LoraRule, ...]
    step: Callable[..., Any]  # (loss, spec, optimizer, total steps) -> step


def plain(loss, spec, optimizer, steps, settings):
    """LoRA."""
    return make_step(loss, spec, optimizer)


def flat(loss, spec, optimizer, steps, settings, **more):
    """Flat-LoRA, with σ growing over the run."""
    sampler = lookup(SAMPLERS, settings.get("sampler", "normal"), "sampler")
    extra = lookup(EXTRAS, settings["extra"], "extra") if settings.get("extra") else None
    sigma = cosine_increase(settings["sigma"], steps)
    return make_step(loss, spec, optimizer, sigma, sampler=sampler, extra=extra, **more)


def isotropic(loss, spec, optimizer, steps, settings):
    """Noise of one deviation for all weights."""
    return flat(loss, spec, optimizer, steps, settings, deviation=constant_std)


def factor_sam(loss, spec, optimizer, steps, settings):
    """LoRA-SAM."""
    return make_step(loss, spec, sam.lora_sam(optimizer, settings["rho"]))


def merged_sam(loss, spec, optimizer, steps, settings):
    """SAM on the merged kernels."""
    return sam.make_merged_sam_step(loss, spec, optimizer, settings["rho"])


OBJECTIVES: Mapping[str, Callable[..., Any]] = {
    "lora": plain,
    "flat": flat,
    "isotropic": isotropic,
    "lora_sam": factor_sam,
    "merged_sam": merged_sam,
}
NEEDS = {"flat": "sigma", "isotropic": "sigma", "lora_sam": "rho", "merged_sam": "rho"}


def variant(name: str, settings: Mapping[str, Any] | ConfigDict, adapt: ConfigDict) -> Variant:
    """A row of `config.methods`; what it does not say is as in `config.adapt`.

    Raises:
      ConfigError: an unknown key or name, or a strength that is missing or out of range.
    """
    for key in settings:
        lookup(dict.fromkeys(ALLOWED), key, f"a key of methods.{name}")
    given = {key: adapt[key] for key in ("rank", "alpha", "scaling", "init", "magnitude")} | dict(settings)
    objective = given.get("objective", "lora")
    train = lookup(OBJECTIVES, objective, f"methods.{name}.objective")
    need = NEEDS.get(objective)
    if need and not (isinstance(given.get(need), int | float) and given[need] >= 0):
        raise ConfigError(f"methods.{name}.{need} is {given.get(need)}; {objective} needs a number of at least 0.")
    rules = tuple(
        LoraRule(
            pattern,
            rank=min(given["rank"], most) if most else given["rank"],
            alpha=given["alpha"],
            scaling=lookup(SCALINGS, given["scaling"], "scaling"),
            init=lookup(INITS, given["init"], "init"),
            magnitude=given["magnitude"],
        )
        for pattern, most in adapt.patterns
    )
    build = lambda loss, spec, optimizer, steps: train(loss, spec, optimizer, steps, given)
    return Variant(given.get("label", name), rules, build)


def optimizer(adapt: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW with linear warm-up and a cosine to 0, behind a clip of the gradient's norm where asked."""
    warmup = max(1, round(adapt.warmup * steps))
    rate = optax.warmup_cosine_decay_schedule(0.0, adapt.learning_rate, warmup, max(steps, warmup + 1))
    tx = optax.adamw(rate, weight_decay=adapt.weight_decay)
    return optax.chain(optax.clip_by_global_norm(adapt.max_norm), tx) if adapt.max_norm else tx
