"""Choosing hyperparameters by the gap to retraining on validation rows: the test rows are not among the arguments."""

import math
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.method import Method, Outcome, unlearn
from clujax.adaptation.predictions import predictions
from clujax.adaptation.request import Request, check_request
from clujax.errors import RequestError
from clujax.training import NonFiniteError
from clujax.unlearning.metrics import evaluate

COMPARED = ("FA", "RA", "VA", "MIA")
# What `evaluate` calls by the test rows' names, since validation rows stand in for them here.
RENAMED = {"TA": "VA", "FA_test": "FA_val"}


class Trial(NamedTuple):
    """One candidate: its gap, its metrics on validation rows, settings and seconds; why, when the gap is infinite."""

    name: str
    gap: float
    values: Mapping[str, float]
    settings: Mapping[str, Any]
    seconds: float
    reason: str | None = None


class SweepResult(NamedTuple):
    """The candidate with the smallest gap, what it made, the retrained network's values, and all trials in order."""

    best: str
    outcome: Outcome
    reference: Mapping[str, float]
    table: tuple[Trial, ...]


def validation_gap(values: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean absolute distance to the retrained network of FA, RA, validation accuracy and validation MIA, in per cent."""
    return sum(abs(values[name] - reference[name]) for name in COMPARED) / len(COMPARED)


def validation_values(
    request: Request, params: PyTree, stats: PyTree, reference: Mapping[str, tuple] | None = None
) -> tuple[dict[str, float], dict[str, tuple]]:
    """The evaluation table with validation rows in place of unseen ones, and the logits that it was made from.

    Validation rows of classes that are forgotten whole stand apart, as test rows do: `FA_val`, not part of `VA`.
    """
    forget, remain, held = request.forget, request.remain, request.validation
    labels = np.asarray(held["y"])
    gone = np.isin(labels, np.setdiff1d(np.asarray(forget["y"]), np.asarray(remain["y"])))
    part = lambda chosen: {name: np.asarray(held[name])[chosen] for name in ("x", "y")}
    rows = {"forget": forget, "remain": remain, "unseen": part(~gone), "unseen_forget": part(gone)}
    cache = predictions(request.classifier, params, stats, rows)
    return {RENAMED.get(name, name): value for name, value in evaluate(cache, reference).items()}, cache


def sweep(
    candidates: Mapping[str, Method],
    request: Request,
    reference: tuple[PyTree, PyTree],
    *,
    key: PRNGKeyArray,
    score: Callable[[Mapping[str, float], Mapping[str, float]], float] = validation_gap,
    **fit_options: Any,
) -> SweepResult:
    """Carry out one request with every candidate and choose the one nearest to retraining, on validation rows alone.

    A gap chosen as the least of many is too small; report the winner's on test rows, with other seeds.

    Args:
      candidates: name -> a configured method, for example `{f"lr {r:g}": finetune(learning_rate=r) for r in rates}`.
      request: with `validation` rows. Method and retrained network never saw them.
      reference: parameters and stats of the network retrained on the remaining rows.
      key: candidate `name` runs with a key made of this one and its name, whatever the others are.
      score: `score(values, reference_values) -> gap`, smaller is better; the values are those of `validation_values`.
      **fit_options: passed to `clujax.training.fit`.

    Returns:
      The winner and every trial. A candidate that diverges has gap inf and a reason, and does not stop the others.

    Raises:
      RequestError: no candidate, or a request without validation rows of kept classes, without rows to forget or to keep.
      NonFiniteError: every candidate diverged.

    Cost: one run and one evaluation for each candidate.
    """
    if not candidates:
        raise RequestError("candidates is empty; give at least one name and method.")
    for name, method in candidates.items():
        check_request(request, method.needs | {"forget", "remain", "validation"}, f"sweep ({name})")
    kept = np.isin(np.asarray(request.validation["y"]), np.asarray(request.remain["y"]))
    if not kept.any():
        raise RequestError(
            "validation has no row of a class that remains; hold out rows of the kept classes: Request(validation=...)."
        )
    expected, cache = validation_values(request, *reference)
    expected |= {"KL": 0.0, "JS": 0.0}
    trials, best, outcome = [], None, None
    for name, method in candidates.items():
        begin, values, reason, made = time.perf_counter(), {}, None, None
        try:
            made = unlearn(
                method,
                request,
                key=jax.random.fold_in(key, zlib.crc32(name.encode())),
                **{"description": name} | fit_options,
            )
            seconds = made.prepare_seconds + made.run_seconds
            gap, reason = math.inf, "the network or its gap is not finite"
            if _finite(made.params):
                try:
                    values, _ = validation_values(request, made.params, made.stats, cache)
                except RequestError as error:  # finite weights of which the logits are not
                    reason = str(error)
                else:
                    gap = float(score(values, expected))
                    reason = None if math.isfinite(gap) else reason
        except NonFiniteError as error:
            gap, reason, seconds = math.inf, str(error), time.perf_counter() - begin
        trials.append(Trial(name, gap, values, method.settings, seconds, reason))
        if reason is None and (best is None or gap < best.gap):
            best, outcome = trials[-1], made
    if best is None:
        first = trials[0]
        raise NonFiniteError(f"every candidate diverged; {first.name}: {first.reason}. Try lower learning rates.", 0)
    return SweepResult(best.name, outcome, expected, tuple(trials))


def _finite(params):
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(params))
