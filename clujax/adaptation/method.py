"""What a method is, and the one driver that runs any of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from clujax.adaptation.request import Request, check_request
from clujax.training import fit, init_state, processes, shard


class Plan(NamedTuple):
    """A prepared run: where it starts, its compiled steps, and the work of each iteration.

    Attributes:
      params, stats: where the run starts.
      tx: the optimizer whose state the steps share.
      steps: `name -> step(state, batch) -> (state, metrics)`, pure and compiled once each.
      work: `work(s) -> [(name, batch), ...]`, the steps of iteration s; pure in s, so that a run resumes anywhere.
      num_steps: iterations N; 0 for a method that has nothing to train.
      facts: what preparing found out, for the record (mask density, ...).
      finish: `finish(params, stats) -> (params, stats)` of the network itself, for a run that trains more than that.
    """

    params: PyTree
    stats: PyTree
    tx: Any
    steps: Mapping[str, Callable]
    work: Callable[[int], list[tuple[str, Any]]]
    num_steps: int
    facts: Mapping[str, Any] = {}
    finish: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] = lambda params, stats: (params, stats)


class Method(NamedTuple):
    """An unlearning method, configured: `prepare(request, key) -> Plan`, and what it needs (keys of `request.NEEDS`)."""

    name: str
    prepare: Callable[[Request, PRNGKeyArray], Plan]
    settings: Mapping[str, Any]
    needs: frozenset = frozenset({"forget", "remain"})


class Outcome(NamedTuple):
    """What a method made: the new network, its record and its cost in seconds (preparing, compiling, running).

    In a run of many processes each of them holds the whole network, on the host.
    """

    params: PyTree
    stats: PyTree
    records: list[dict]
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    prepare_seconds: float
    compile_seconds: float
    run_seconds: float


def unlearn(
    method: Method,
    request: Request,
    *,
    key: PRNGKeyArray,
    probe: Callable[[PyTree, PyTree], Mapping[str, Any]] | None = None,
    **fit_options: Any,
) -> Outcome:
    """Carry out a forget request with one method.

    Args:
      method: for example `clujax.unlearning.sfron(steps=300)`.
      request: the network, the rows to forget and the rows to keep. It is left as it was.
      key: all randomness of the run.
      probe: `probe(params, stats) -> {name: number}`, measured before each logged iteration (`log_every`) and recorded
        as `probe/name`; its time is not counted as the method's.
      **fit_options: passed to `clujax.training.fit` (progress, checkpoints, writer, ...).

    Returns:
      The new parameters with the run's record.

    Raises:
      RequestError: when the request cannot be carried out.
      NonFiniteError: when the run diverges.
    """
    check_request(request, method.needs, method.name)
    prepare_key, run_key = jax.random.split(key)
    begin = time.perf_counter()
    plan = method.prepare(request, prepare_key)
    jax.block_until_ready((plan.params, plan.facts))
    prepare_seconds = time.perf_counter() - begin
    outcome = execute(plan, key=run_key, probe=probe, mesh=request.mesh, rules=request.rules, **fit_options)
    return outcome._replace(prepare_seconds=prepare_seconds, settings=method.settings)


def execute(
    plan: Plan, *, key: PRNGKeyArray, probe=None, log_every: int = 50, mesh=None, rules=None, **fit_options: Any
) -> Outcome:
    """Run a prepared plan; arguments as for `unlearn`, `mesh` and `rules` as in its request."""
    state = init_state(plan.params, plan.stats, plan.tx, key)
    if mesh is not None:
        # The steps would do it; checkpoints want it before the first one.
        state = shard(state, mesh, rules)
    if probe is not None:
        probe(
            *plan.finish(plan.params, plan.stats)
        )  # compiles here, so that it is not counted as the method's compiling
    probing = 0.0

    def step(state, item):
        nonlocal probing
        s, work = item
        metrics, finite, loss = {}, True, 0.0
        if probe is not None and s % log_every == 0:
            begin = time.perf_counter()
            found = probe(*plan.finish(*processes.gathered((state.params, state.stats))))
            metrics = {f"probe/{name}": np.asarray(value) for name, value in found.items()}
            probing += time.perf_counter() - begin
        for name, batch in work:
            state, values = plan.steps[name](state, batch)
            finite &= values.pop("finite")
            loss = values.get("loss", loss)  # some steps only prepare the next
            metrics |= {key if "/" in key else f"{name}/{key}": value for key, value in values.items()}
        return state, metrics | {"loss": loss, "finite": finite}

    state, history = fit(step, state, lambda s: (s, plan.work(s)), plan.num_steps, log_every=log_every, **fit_options)
    params, stats = plan.finish(*processes.gathered((state.params, state.stats)))
    return Outcome(
        params=params,
        stats=stats,
        records=history.records,
        facts=plan.facts,
        settings={},
        warnings=run_warnings(history.records),
        prepare_seconds=0.0,
        compile_seconds=history.compile_seconds,
        run_seconds=max(history.run_seconds - probing, 0.0),
    )


def run_warnings(records: list) -> tuple[str, ...]:
    """What a user must hear about a finished run, in words."""
    found = []

    def median(name):
        values = [record[name] for record in records if name in record]
        return float(np.median(values)) if values else None

    size, silent, norm = (median(f"forget/{name}") for name in ("effective_sample_size", "silent_weight", "grad_norm"))
    if silent is not None and silent > 0.9:
        found.append(
            f"Rows whose float32 loss is exactly 0 took {100 * silent:.0f} % of the weight of the forget batches and push"
            " nothing, so next to nothing was forgotten. Use a loss floor (floor=1e-3)."
        )
    elif size is not None and size < 2:
        found.append(
            f"The median effective sample size of the forget batches was {size:.2f}: one row took all the weight."
            " Use a smaller exponent or a higher loss floor."
        )
    if norm is not None and norm < 1e-8:
        found.append(f"The forget gradient vanished (median norm {norm:.1e}): nothing was forgotten.")
    return tuple(found)
