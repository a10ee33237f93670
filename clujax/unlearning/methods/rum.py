"""RUM: split the forget rows by how well they are memorised, and unlearn each part by a method that suits it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.plans import network_only
from clujax.adaptation.predictions import predict
from clujax.adaptation.request import Request, check_request
from clujax.errors import RequestError
from clujax.training import init_state


def rum(
    *,
    parts: Sequence[Method | None],
    scores: Callable[[Request], np.ndarray] | None = None,
    keep_waiting: bool = True,
) -> Method:
    """One method after another, each on its part of the forget rows, from the least memorised to the most.

    The same numbers as `unlearn(method, part, key=fold_in(key, i))` by hand, part after part. A run that was stopped goes on
    within a part.

    Args:
      parts: a method for each part, in rising order of the scores; None leaves a part as it is.
      scores: `scores(request) -> [n_f]`, larger for rows that are memorised more; by default the original network's loss,
        a proxy. `memorization_scores` gives the real ones.
      keep_waiting: while a part is processed, count the parts that wait as remaining rows.

    Source: Zhao et al. 2024 (published: nothing, finetune, SalUn). Cost: that of its methods; all but the first are prepared
    twice. Memory: the training states of all parts.
    """
    chosen = [i for i, part in enumerate(parts) if part is not None]
    if not chosen:
        raise ValueError("parts holds no method; give at least one.")
    settings = {
        "parts": [part and {"method": part.name} | dict(part.settings) for part in parts],
        "keep_waiting": keep_waiting,
    }
    # Whole classes are a matter of each part and the rows that wait: checked below.
    needs = frozenset({"forget", "remain"}).union(*(parts[i].needs for i in chosen)) - {"classes"}

    def prepare(request, key):
        split = _split(request, scores or original_losses, len(parts))
        requests, keys = {}, {}
        for i in chosen:
            requests[i] = _part(request, split[i], split[i + 1 :] if keep_waiting else [])
            check_request(requests[i], parts[i].needs, f"part {i} of rum, {parts[i].name},")
            keys[i] = jax.random.split(jax.random.fold_in(key, i))

        def plan_of(i, start):
            return parts[i].prepare(requests[i]._replace(params=start["params"], stats=start["stats"]), keys[i][0])

        # Plans made on the original network tell sizes and shapes; the first of them is the one that will run.
        start = {"params": request.params, "stats": request.stats}
        plans = {i: plan_of(i, start) for i in chosen}
        states = {str(i): init_state(plan.params, plan.stats, plan.tx, keys[i][1]) for i, plan in plans.items()}
        lengths = {i: max(plans[i].num_steps, 1) for i in chosen}  # an edit takes one iteration
        places = [(i, t) for i in chosen for t in range(lengths[i])]
        ready = {chosen[0]: plans[chosen[0]]}

        def step(state, place):
            i, t = place
            stats, metrics, finite = dict(state.stats), {}, True
            if t == 0 and i != chosen[0]:
                stats["start"] = {"params": state.params, "stats": stats["network"]}
                ready.clear()
            if i not in ready:  # its turn has come, or the run was taken up again inside this part
                ready[i] = plan_of(i, stats["start"])
            plan, own = ready[i], stats["states"][str(i)]
            if t == 0 and i != chosen[0]:
                own = init_state(plan.params, plan.stats, plan.tx, keys[i][1])
            for name, batch in plan.work(t) if t < plan.num_steps else []:
                own, values = plan.steps[name](own, batch)
                finite &= values.pop("finite")
                metrics |= values
            params = state.params
            if t + 1 == lengths[i]:
                params, stats["network"] = plan.finish(own.params, own.stats)
            stats["states"] = stats["states"] | {str(i): own}
            return state._replace(params=params, stats=stats, step=state.step + 1), metrics | {"finite": finite}

        return Plan(
            request.params,
            {"network": request.stats, "start": start, "states": states},
            optax.identity(),
            {"part": step},
            lambda s: [("part", places[s])],
            len(places),
            {"sizes": [len(rows) for rows in split]},
            network_only,
        )

    return Method("rum", prepare, settings, needs)


def rum_from(parts: Sequence[Any], build: Callable[[Mapping[str, Any]], Method], **settings: Any) -> Method:
    """`rum` from plain values, as a config holds them.

    Args:
      parts: for each part the values of a method, or what is empty ("", None) to leave it.
      build: `build(values) -> Method`.
      **settings: of `rum`.

    Raises:
      ValueError: a part that is neither empty nor a mapping.
    """
    for i, part in enumerate(parts):
        if part and not isinstance(part, Mapping):
            raise ValueError(f"parts[{i}] is {part!r}; expected a method's values, or '' to leave the part as it is.")
    return rum(parts=[build(part) if part else None for part in parts], **settings)


def original_losses(request: Request) -> np.ndarray:
    """Cross-entropy of each forget row under the original network."""
    logits = predict(request.classifier, request.params, request.stats, request.forget["x"])
    return np.asarray(cross_entropy(logits, jnp.asarray(request.forget["y"])))


def _split(request, scores, count):
    """Row numbers of each part, in rising order of the scores; the first of equals comes first."""
    found, rows = np.asarray(scores(request)), len(request.forget["y"])
    if found.shape != (rows,) or not np.isfinite(found).all():
        bad = int(np.sum(~np.isfinite(found)))
        raise RequestError(
            f"scores has shape {found.shape} and {bad} NaN or Inf; expected one finite number per forget row, [{rows}]."
        )
    if rows < count:
        raise RequestError(f"{rows} forget rows cannot be split into {count} parts; give fewer methods.")
    return np.array_split(np.argsort(found, kind="stable"), count)


def _part(request, rows, waiting):
    """The request of one part: its rows to forget; those that wait are kept."""
    waiting = np.concatenate([np.array([], int), *waiting])
    take = lambda name, chosen: np.asarray(request.forget[name])[chosen]
    remain = {n: np.concatenate([np.asarray(request.remain[n]), take(n, waiting)]) for n in "xy"}
    return request._replace(forget={n: take(n, rows) for n in "xy"}, remain=remain)
