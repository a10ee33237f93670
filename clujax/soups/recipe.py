"""A soup as a file: mixing weights, group names, which models; the model is rebuilt from the pool by one streaming pass."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from clujax.geometry.mixing import KEPT, Groups
from clujax.geometry.paths import named, shown
from clujax.soups import statistics
from clujax.soups.pools import Identity, Pool, identity
from clujax.soups.soup import Soup, as_model, dtypes_of, streamed
from clujax.training.digest import tree_digest
from clujax.training.workdir import write_json


class Recipe(NamedTuple):
    """How a soup is made.

    Attributes:
        weights: mixing weights [K, L].
        groups: group name -> the paths it is about, in the order of the columns.
        models: name and content hash of the K models.
        settings: of the method, JSON-able.
        metrics: what the soup reached.
        frozen: names of groups that hold statistics.
    """

    weights: Float[np.ndarray, "K L"]
    groups: Mapping[str, Sequence[str]]
    models: Sequence[Identity]
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    frozen: Sequence[str] = ()


def recipe_of(
    pool: Pool,
    soup: Soup,
    *,
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    identities: Sequence[Identity] | None = None,
) -> Recipe:
    """The recipe of a soup; without `identities` every model is read once for its hash."""
    paths = list(named(pool.struct))
    groups = {
        name: [path for path, of in zip(paths, soup.groups.of) if of == number]
        for number, name in enumerate(soup.groups.names)
    }
    models = list(identities or (identity(pool, k) for k in range(len(pool))))
    frozen = [soup.groups.names[number] for number in soup.groups.frozen]
    return Recipe(
        np.asarray(soup.weights, np.float64), groups, models, dict(settings or {}), dict(metrics or {}), frozen
    )


def save_recipe(path: str | os.PathLike, recipe: Recipe) -> None:
    """Write a recipe as JSON, whole or not at all.

    Raises:
        OSError: the disk is full or not writable; an older file is as it was.
    """
    content = recipe._asdict() | {
        "weights": recipe.weights.tolist(),
        "models": [each._asdict() for each in recipe.models],
    }
    write_json(path, content)


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Read what `save_recipe` wrote.

    Raises:
        ValueError: it is no recipe.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text())
        weights = np.asarray(content.pop("weights"), np.float64)
        models = [Identity(**each) for each in content.pop("models")]
        return Recipe(weights=weights, models=models, **content)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no recipe of a soup: {type(error).__name__}: {error}") from error


def from_recipe(pool: Pool, recipe: Recipe, *, verify: bool = True, stats: statistics.Policy | None = None) -> PyTree:
    """The soup of a recipe: θ^l = Σ_k w_k^l·θ_k^l in float32, one model in memory at a time.

    Args:
        pool: the same models in the same order.
        recipe: from `recipe_of` or `load_recipe`.
        verify: compare the models' hashes; each is then read twice.
        stats: a policy whose `finish` re-estimates BatchNorm statistics, where the soup had one.

    Raises:
        ValueError: another number of models, other models, or other paths.
    """
    if len(pool) != len(recipe.weights):
        raise ValueError(f"the recipe is for {len(recipe.weights)} models; the pool has {len(pool)}.")
    number_of = {path: number for number, paths in enumerate(recipe.groups.values()) for path in paths}
    leaves = named(pool.struct)
    missing = [p for p, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.inexact) and p not in number_of]
    if missing or (strange := sorted(number_of.keys() - leaves.keys())):
        raise ValueError(f"the recipe's groups do not fit the pool: {shown(missing or strange, 5)}.")
    for k, expected in enumerate(recipe.models if verify else ()):
        if (found := tree_digest(pool.load(k))) != expected.sha256:
            raise ValueError(
                f"model {k} of the pool ({pool.names[k]}) is not the recipe's {expected.name}: its content hash is "
                f"{found[:12]}, the recipe has {expected.sha256[:12]}."
            )
    names = tuple(recipe.groups)
    frozen = tuple(names.index(name) for name in recipe.frozen)
    groups = Groups(names, tuple(number_of.get(path, KEPT) for path in leaves), frozen)
    params = as_model(streamed(pool, recipe.weights, groups), dtypes_of(pool))
    return params if stats is None else stats.finish(params)
