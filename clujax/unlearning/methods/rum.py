"""RUM: split the forget rows by how well they are memorised, and unlearn each part by a method that suits it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clujax.errors import RequestError
from clujax.unlearning.losses import cross_entropy
from clujax.unlearning.method import Method, Plan, unlearn
from clujax.unlearning.plans import edited
from clujax.unlearning.request import Request


def rum(
    *,
    parts: Sequence[Method | None],
    scores: Callable[[Request], np.ndarray] | None = None,
    keep_waiting: bool = True,
) -> Method:
    """One method after another, each on its part of the forget rows, from the least memorised to the most.

    Args:
      parts: a method for each part, in rising order of the scores; None leaves a part as it is.
      scores: `scores(request) -> [n_f]`, larger for rows that are memorised more; by default the original network's loss,
        a proxy. `ensembles.memorization_scores` gives the real ones.
      keep_waiting: while a part is processed, count the parts that wait as remaining rows.

    The parts run while the method is prepared. Source: Zhao et al. 2024. Cost: that of its methods.
    """
    if not any(part is not None for part in parts):
        raise ValueError("parts holds no method; give at least one.")
    settings = {
        "parts": [part and {"method": part.name} | dict(part.settings) for part in parts],
        "keep_waiting": keep_waiting,
    }
    needs = frozenset({"forget", "remain"}).union(*(part.needs for part in parts if part is not None))

    def prepare(request, key):
        found = np.asarray((scores or original_losses)(request))
        count = len(request.forget["y"])
        if found.shape != (count,) or not np.isfinite(found).all():
            raise RequestError(f"scores has shape {found.shape}; expected one finite number per forget row, [{count}].")
        if count < len(parts):
            raise RequestError(f"{count} forget rows cannot be split into {len(parts)} parts; give fewer methods.")
        split = np.array_split(np.argsort(found, kind="stable"), len(parts))
        params, stats = request.params, request.stats
        for i, (method, rows) in enumerate(zip(parts, split, strict=True)):
            if method is None:
                continue
            waiting = np.concatenate([np.array([], int), *split[i + 1 :]]) if keep_waiting else np.array([], int)
            forget, waiting = (_take(request.forget, chosen) for chosen in (rows, waiting))
            remain = {
                name: jnp.concatenate([jnp.asarray(request.remain[name]), jnp.asarray(waiting[name])]) for name in "xy"
            }
            part = request._replace(params=params, stats=stats, forget=forget, remain=remain)
            outcome = unlearn(method, part, key=jax.random.fold_in(key, i))
            params, stats = outcome.params, outcome.stats
        plan: Plan = edited(request, params, sizes=[len(rows) for rows in split])
        return plan._replace(stats=stats)

    return Method("rum", prepare, settings, needs)


def original_losses(request: Request) -> np.ndarray:
    """Cross-entropy of each forget row under the original network."""
    x, y = np.asarray(request.forget["x"]), np.asarray(request.forget["y"])
    losses = jax.jit(
        lambda x, y: cross_entropy(request.classifier.apply(request.params, request.stats, x, train=False)[0], y)
    )
    return np.concatenate([losses(x[i : i + 500], y[i : i + 500]) for i in range(0, len(y), 500)])


def _take(rows, chosen):
    return {name: np.asarray(rows[name])[chosen] for name in "xy"}
