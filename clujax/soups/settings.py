"""Names in a config become functions here, once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree
from ml_collections import ConfigDict

from clujax.adaptation.settings import lookup
from clujax.errors import ConfigError
from clujax.soups import averages, directions, groups, reference
from clujax.soups.descent import Descent
from clujax.soups.gauss_newton import GaussNewton
from clujax.soups.learned import learned, projected, softmax
from clujax.soups.mehl import always, improve, mehl
from clujax.soups.objective import Objective
from clujax.soups.pools import Pool
from clujax.soups.soup import Soup
from clujax.training.checkpoint import Checkpoints


class Held(NamedTuple):
    """What a method may look at.

    Attributes:
        pool: the models.
        objective: their outputs and loss.
        batches: held-out rows.
        score: of a model on them, higher is better.
        scores: of the models of the pool.
        key: for orders and outputs that draw.
    """

    pool: Pool
    objective: Objective
    batches: Sequence[Mapping[str, Any]]
    score: Callable[[PyTree], float]
    scores: Sequence[float]
    key: PRNGKeyArray


class Method(NamedTuple):
    """One row of a comparison; `kind` as in the config."""

    label: str
    kind: str
    make: Callable[[Held, Checkpoints | None], Soup]


GROUPS = {"leaf": groups.leaf, "module": groups.module, "whole": groups.whole}
REFERENCES = {name: getattr(reference, name) for name in ("running", "running_from_mean", "pool_mean")}
NORMALIZE = {name: getattr(directions, name) for name in ("unit", "mean_norm", "raw")}
ACCEPT = {"always": always, "improve": improve}
SIMPLEX = {"softmax": softmax, "projected": projected}


def by_descent(given: Mapping[str, Any]) -> Descent:
    """First-order steps on the coefficients."""
    return Descent(learning_rate=given["learning_rate"], epochs=given["epochs"], clip_norm=given["clip_norm"])


def by_gauss_newton(given: Mapping[str, Any]) -> GaussNewton:
    """Damped Gauss–Newton steps."""
    return GaussNewton(steps=given["steps"])


INNER = {"descent": by_descent, "gauss_newton": by_gauss_newton}


def best(held: Held, checkpoints: Checkpoints | None) -> Soup:
    """The model with the highest held-out score."""
    return averages.best_individual(held.pool, held.score, scores=held.scores)


def uniform(held: Held, checkpoints: Checkpoints | None) -> Soup:
    """The mean of all models."""
    return averages.uniform(held.pool)


def greedy(held: Held, checkpoints: Checkpoints | None) -> Soup:
    """The mean of the models that raise the held-out score one after the other."""
    return averages.greedy(held.pool, held.score, scores=held.scores)


PLAIN = {"best": best, "uniform": uniform, "greedy": greedy}
LEARNED = {"groups": "leaf", "learning_rate": 0.05, "epochs": 5, "simplex": "softmax", "temperature": True}
MEHL = {
    "groups": "leaf",
    "block_size": None,
    "inner": "descent",
    "learning_rate": 0.05,
    "epochs": 5,
    "clip_norm": None,
    "steps": 5,
    "sweeps": 1,
    "reference": "running",
    "normalize": "unit",
    "accept": "always",
    "patience": None,
    "extrapolate": True,
    "bfloat16": False,
}
KEYS = {**{name: {} for name in PLAIN}, "learned": LEARNED, "mehl": MEHL}


def method(name: str, settings: Mapping[str, Any] | ConfigDict, learn: Mapping[str, Any] | ConfigDict) -> Method:
    """A row of `config.methods`; what it does not say is as in `config.learn`, and else the method's default.

    Raises:
      ConfigError: an unknown key or name, or a number out of range.
    """
    kind = settings.get("kind", "mehl")
    defaults = lookup(KEYS, kind, f"methods.{name}.kind")
    said = {key: value for key, value in settings.items() if key not in ("kind", "label")}
    for key in said:
        lookup(dict.fromkeys([*defaults, "label"]), key, f"a key of methods.{name} ({kind})")
    given = defaults | {key: learn[key] for key in learn if key in defaults} | said
    for key in ("learning_rate", "epochs", "sweeps", "steps", "block_size", "patience"):
        if key in given and given[key] is not None and not given[key] > 0:
            raise ConfigError(f"methods.{name}.{key} is {given[key]}; expected a number above 0.")
    at = lambda table, key: lookup(table, given[key], f"methods.{name}.{key}")
    if kind in PLAIN:
        make = PLAIN[kind]
    elif kind == "learned":
        rule, simplex = at(GROUPS, "groups"), at(SIMPLEX, "simplex")

        def make(held: Held, checkpoints: Checkpoints | None) -> Soup:
            return learned(
                held.pool, held.objective, held.batches, key=held.key, groups=rule, simplex=simplex,
                learning_rate=given["learning_rate"], epochs=given["epochs"], temperature=given["temperature"],
            )  # fmt: skip
    else:
        tables = {"groups": GROUPS, "reference": REFERENCES, "normalize": NORMALIZE, "accept": ACCEPT}
        chosen = {key: at(table, key) for key, table in tables.items()}
        chosen |= {key: given[key] for key in ("block_size", "sweeps", "patience", "extrapolate")}
        chosen |= {"inner": at(INNER, "inner")(given), "directions_dtype": jnp.bfloat16 if given["bfloat16"] else None}
        if not chosen["extrapolate"] and not chosen["reference"].moves:
            raise ConfigError(f"methods.{name}: extrapolate = False needs a reference that moves, not pool_mean.")

        def make(held: Held, checkpoints: Checkpoints | None) -> Soup:
            return mehl(held.pool, held.objective, held.batches, key=held.key, checkpoints=checkpoints, **chosen)

    return Method(settings.get("label", name), kind, make)
