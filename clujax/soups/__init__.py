"""Model soups: one model from a pool of K, by mixing weights per model and layer that are learned on held-out data.

`mehl` (MEHL-Soup, MEHL-Soup+, HL-Soup) needs memory for a block of b models and for no graph through them; `best_individual`,
`uniform`, `greedy` and `learned` stand beside it. A pool is in memory, on disk, or adapters on one base.
"""

from clujax.soups import groups, statistics
from clujax.soups.adapters import AdapterPool
from clujax.soups.averages import best_individual, greedy, scores_of, uniform
from clujax.soups.batches import check_apart
from clujax.soups.descent import Descent, make_block_step, warmup_cosine
from clujax.soups.diagnostics import BasinWarning, check_basin, leave_one_out
from clujax.soups.directions import block_directions, mean_norm, raw, unit
from clujax.soups.gauss_newton import GaussNewton
from clujax.soups.groups import make_groups
from clujax.soups.learned import learned, projected, softmax
from clujax.soups.mehl import NonFiniteBlockError, always, given, improve, mehl, shuffle
from clujax.soups.objective import Objective, cross_entropy
from clujax.soups.pools import Identity, MemoryPool, OrbaxPool, Pool, StackedPool, Subset, identity
from clujax.soups.recipe import Recipe, from_recipe, load_recipe, recipe_of, save_recipe
from clujax.soups.reference import Reference, pool_mean, running, running_from_mean
from clujax.soups.soup import Soup

__all__ = [
    "AdapterPool",
    "BasinWarning",
    "Descent",
    "GaussNewton",
    "Identity",
    "MemoryPool",
    "NonFiniteBlockError",
    "Objective",
    "OrbaxPool",
    "Pool",
    "Recipe",
    "Reference",
    "Soup",
    "StackedPool",
    "Subset",
    "always",
    "best_individual",
    "block_directions",
    "check_apart",
    "check_basin",
    "cross_entropy",
    "from_recipe",
    "given",
    "greedy",
    "groups",
    "identity",
    "improve",
    "learned",
    "leave_one_out",
    "load_recipe",
    "make_block_step",
    "make_groups",
    "mean_norm",
    "mehl",
    "pool_mean",
    "projected",
    "raw",
    "recipe_of",
    "running",
    "running_from_mean",
    "save_recipe",
    "scores_of",
    "shuffle",
    "softmax",
    "statistics",
    "uniform",
    "unit",
    "warmup_cosine",
]
