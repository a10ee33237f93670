"""SFR-on: salient, weighted ascent on the forget rows, repaired on the remain-preserving manifold."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from clujax.adaptation.importance import balanced_mask
from clujax.adaptation.losses import adaptive_ascent, descend, objective_loss
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.request import compiled_step, stream
from clujax.adaptation.schedules import cosine
from clujax.transforms import FORGET, REMAIN, cycle
from clujax.transforms import sfron as sfron_transform


def sfron(
    *,
    steps: int = 355,
    repair: int = 5,
    ascent: float = 50.0,
    objective: Callable | None = None,
    schedule: Callable[[float], float] = cosine,
    threshold: float | None = 1.0,
    fisher: str = "batch",
    fisher_batches: int | None = None,
    max_norm: float | None = 7.0,
    remain_weight: float = 1.0,
    slow_step: float = 1.0,
    slow_per: str = "iteration",
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    forget_train: bool = True,
    inner: Callable[[int], optax.GradientTransformation] | None = None,
    whole_cycles: bool | None = None,
) -> Method:
    """One masked, weighted ascent step on forget, then `repair` descent steps on remain, through one optimizer.

    Iterations s = 0 … steps−1; when s mod `repair` is 0, a forget step comes first:
    gradient of α_s · objective, times the mask, clipped to `max_norm`, into the shared optimizer.

    Args:
      steps: iterations N (descent steps on remain).
      repair: repair period T ≥ 1.
      ascent: weight α of the forget objective, times `schedule(s/N)`.
      objective: forget objective `(logits, labels, key) -> (scalar to minimise, metrics)`; by default
        `adaptive_ascent(exponent=0.5, floor=1e-3)`.
      schedule: fall of the ascent weight; see `clujax.adaptation.schedules`.
      threshold: γ of the balanced mask F_forget/F_remain ≥ γ; None moves every weight.
      fisher: estimator of the mask's Fisher diagonals: "batch" (published), "example" or "true".
      fisher_batches: at most this many batches for each diagonal; None takes every row.
      max_norm: global norm to which the masked forget gradient is clipped; None does not clip.
      remain_weight: weight of the remaining descent; 0 leaves nothing to keep the network by.
      slow_step: outer step τ in [0, 1]; 1 keeps no copy of the weights.
      slow_per: take the outer step each "iteration" (official code) or each "cycle" (paper).
      batch_size: rows in a batch of either kind.
      learning_rate, momentum, weight_decay: of the shared SGD, whose rate falls as a cosine over the iterations.
      forget_train: whether the forget pass runs in train mode (it then updates BatchNorm averages, as published).
      inner: `inner(steps) -> transformation`, replaces the shared SGD without its learning rate.
      whole_cycles: compile a forget step and its repairs to one program, with the same trajectory. None: except on CPU,
        where a scan over convolutions is slow. A unit of progress, logging and checkpoints is then a cycle.

    Raises:
      ValueError: naming the argument, what came and what is allowed.

    Cost: one pass over all rows for the mask, then 1 + 1/repair gradients per iteration.
    Source: Huang et al. 2024, "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement".
    """
    settings = dict(locals())
    check_settings(settings)
    objective = objective or adaptive_ascent()

    def prepare(request, key):
        mask_key, forget_key, remain_key = jax.random.split(key, 3)
        mask, facts = None, {}
        if threshold is not None:
            mask, facts = balanced_mask(
                request, threshold, kind=fisher, max_batches=fisher_batches, batch_size=batch_size, key=mask_key
            )
        shared = inner(steps) if inner else optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum))
        tx = sfron_transform(
            shared,
            mask=mask,
            max_norm=max_norm,
            learning_rate=optax.cosine_decay_schedule(learning_rate, steps),
            slow_step=slow_step,
            slow_every=repair if slow_per == "cycle" else 1,
        )
        forget_at = stream(request, request.forget, batch_size, forget_key)
        remain_at = stream(request, request.remain, batch_size, remain_key)
        forget_step = partial(
            compiled_step(request, objective_loss(request, objective, train=forget_train), tx), phase=FORGET
        )
        remain_step = partial(compiled_step(request, descend(request, weight=remain_weight), tx), phase=REMAIN)

        def forget_batch(cycle):
            return forget_at(cycle) | {"weight": ascent * schedule(cycle * repair / steps)}

        def iteration(s):
            forgetting = [("forget", forget_batch(s // repair))] if s % repair == 0 else []
            return [*forgetting, ("remain", remain_at(s))]

        def whole(c):
            repairs = [remain_at(s) for s in range(c * repair, min((c + 1) * repair, steps))]
            return [("cycle", (forget_batch(c), jax.tree.map(lambda *rows: jnp.stack(rows), *repairs)))]

        if jax.default_backend() != "cpu" if whole_cycles is None else whole_cycles:
            run = jax.jit(cycle(forget_step, remain_step), donate_argnums=0)
            count = -(-steps // repair)
            return Plan(request.params, request.stats, tx, {"cycle": partial(cycle_step, run)}, whole, count, facts)
        compiled = {"forget": forget_step, "remain": remain_step}
        return Plan(request.params, request.stats, tx, compiled, iteration, steps, facts)

    return Method("sfron", prepare, settings)


def cycle_step(run, state, batches):
    """A compiled cycle in the form of a step: the forget step's metrics and the last repair's."""
    state, (forget, remain) = run(state, *batches)
    last = {key: value[-1] for key, value in remain.items()}
    named = {f"forget/{key}": value for key, value in forget.items()}
    named |= {f"remain/{key}": value for key, value in last.items()}
    return state, named | {"loss": last["loss"], "finite": forget["finite"] & jnp.all(remain["finite"])}


def check_settings(settings):
    """Refuse settings that cannot be meant; NaN fails every comparison and so is refused too."""
    for name in ("steps", "repair", "batch_size"):
        if name in settings and not settings[name] >= 1:
            raise ValueError(f"{name} is {settings[name]}; expected an integer of at least 1.")
    for name in ("ascent", "learning_rate", "weight_decay", "threshold", "damping", "remain_weight"):
        if settings.get(name) is not None and not settings[name] >= 0:
            raise ValueError(f"{name} is {settings[name]}; expected a number of at least 0.")
    if settings.get("max_norm") is not None and not settings["max_norm"] > 0:
        raise ValueError(f"max_norm is {settings['max_norm']}; expected a positive norm, or None for no clipping.")
    if not 0 <= settings.get("slow_step", 1.0) <= 1:
        raise ValueError(f"slow_step is {settings['slow_step']}; expected a number in [0, 1].")
    for name, allowed in (("fisher", ("batch", "example", "true")), ("slow_per", ("iteration", "cycle"))):
        if name in settings and settings[name] not in allowed:
            raise ValueError(f"{name} is {settings[name]!r}; expected one of {allowed}.")
