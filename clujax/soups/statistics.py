"""What becomes of BatchNorm's running statistics in a soup: they are no weights, and must not be learned as such."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from clujax.geometry.mixing import Groups
from clujax.geometry.paths import named, shown

COLLECTIONS = {"batch_stats", "running_mean", "running_var"}


class Policy(NamedTuple):
    """Running statistics of a soup.

    Attributes:
        weights: K -> mixing weights [K] of the statistics, summing to 1.
        finish: the finished model -> the model with other statistics.
    """

    weights: Callable[[int], Float[np.ndarray, " K"]]
    finish: Callable[[PyTree], PyTree] = lambda params: params


average = Policy(lambda count: np.full(count, 1 / count))
"""The mean of the models' statistics."""


def from_best(best: int) -> Policy:
    """The statistics of one model."""
    return Policy(lambda count: np.eye(count)[best])


def recompute(refresh: Callable[[PyTree], PyTree]) -> Policy:
    """The mean while learning; then `refresh(params)` re-estimates them, as by one pass in train mode over training data."""
    return Policy(average.weights, refresh)


def is_statistic(path: str, names: set[str]) -> bool:
    """Whether a path holds running statistics: linen's and torch's by name, nnx's as mean and var beside a scale."""
    parent, _, last = path.rpartition("/")
    beside = {f"{parent}/{other}".lstrip("/") for other in ("mean", "var", "scale")}
    return bool(COLLECTIONS & set(path.split("/"))) or (last in ("mean", "var") and beside <= names)


def frozen(struct: PyTree, policy: Policy | None) -> Callable[[str], bool]:
    """The predicate of `make_groups` for a pool's statistics.

    Raises:
        ValueError: there are some and no policy.
    """
    names = set(named(struct))
    found = [name for name in names if is_statistic(name, names)]
    if found and policy is None:
        raise ValueError(
            f"the models have running statistics ({shown(sorted(found), 3)}) and no policy says what becomes of them; "
            "give stats=average, from_best(k) or recompute(refresh) (clujax.soups.statistics)."
        )
    return lambda name: name in found


def start_weights(groups: Groups, count: int, chosen: Sequence[int], policy: Policy | None) -> Float[np.ndarray, "K L"]:
    """Uniform mixing weights of the chosen models; those of the statistics by the policy."""
    found = np.zeros((count, len(groups.names)))
    found[list(chosen)] = 1 / len(chosen)
    for number in groups.frozen:
        found[:, number] = policy.weights(count)
    return found
