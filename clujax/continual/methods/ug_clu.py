"""UG-CLU: learning and forgetting as one step along the geometry of the rows that stay."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax

from clujax.adaptation.losses import adaptive_ascent, descend, objective_loss
from clujax.adaptation.method import Plan
from clujax.adaptation.request import compiled_step, forward
from clujax.adaptation.schedules import linear
from clujax.continual.memory import size
from clujax.continual.method import Method, Phase, Rules
from clujax.continual.methods.parts import has_old_rows, old_rows_at
from clujax.continual.objectives import plain_learning
from clujax.continual.saliency import fisher_of_batches, passes
from clujax.geometry import check_mask, density, ratio_mask
from clujax.training import make_train_step
from clujax.transforms import FORGET, LEARN, REMAIN, with_masks
from clujax.transforms import ug_clu as ug_clu_transform

PLACES = ("interleaved", "fast")


def ug_clu(
    *,
    steps: int = 300,
    repair: int = 5,
    ascent: float = 10.0,
    learn_weight: float = 1.0,
    objective: Callable | None = None,
    learn_objective: Callable | None = None,
    learn_placement: str = "interleaved",
    schedule: Callable[[float], float] = linear,
    threshold: float | None = 1.0,
    learn_threshold: float | None = None,
    fisher: str = "batch",
    fisher_batches: int | None = None,
    max_norm: float | None = 7.0,
    slow_step: float = 1.0,
    slow_per: str = "iteration",
    replay: str = "memory",
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    inner: Callable[[int], optax.GradientTransformation] | None = None,
) -> Method:
    """Masked, weighted ascent on forget rows and descent on learn rows, repaired on the rows that stay.

    The exact step moves by −(H_remain)⁻¹ of both pushes; a fast step on them, then `repair` steps on the remaining rows from
    there, is that inverse, damped and online. In iterations s = 0 … steps − 1:

        interleaved:  if s mod T = 0: forget step;   learn step;   remain step
        fast:         if s mod T = 0: forget and learn gradient in one step;   remain step

    where a forget step is mask, clip, optimizer on ∇(α_s · objective), and a learn step the same on its own. Masks, rates,
    weights and the optimizer's state begin anew at each request; its programs are compiled once for the stream. A request
    without forget rows is clipped replay, one without learn rows is SFR-on, and where nothing remains the learn rows are
    trained on plainly.

    Args:
      steps: iterations N (remain steps).
      repair: T ≥ 1, remain steps to a forget step.
      ascent: weight α of the forget objective, times `schedule(s/N)`. For whole classes small (0.1 … 1).
      learn_weight: weight of the learn objective.
      objective: forget objective `(logits, labels, key) -> (scalar, metrics)`; `adaptive_ascent()` by default,
        `random_relabel(C)` where a whole class is to be forgotten without pushing far beyond.
      learn_objective: see `clujax.continual.objectives`; mean cross-entropy by default.
      learn_placement: "interleaved" (a learn step before each remain step) or "fast" (with the forget step, as in theory).
      threshold: γ of the forget mask F_forget/F_remain ≥ γ; None moves every weight (ablation −S).
      learn_threshold: the same for learn steps; None moves every weight.
      fisher: "batch" (squares of batch means, published) or "example".
      fisher_batches: at most this many batches for each diagonal; None one pass.
      max_norm: to which a masked forget or learn gradient is clipped; None does not clip.
      slow_step, slow_per: the outer step τ, each "iteration" or "cycle"; τ = 1 keeps no copy.
      replay: what repairs: rows in "memory", or every "remain" row.
      batch_size, learning_rate, momentum, weight_decay: of the shared SGD; its rate falls as a cosine in each request.
      inner: `inner(steps) -> transformation` replaces the shared SGD without its learning rate.

    Raises:
      ValueError: naming the argument, what came and what is allowed.

    Cost: 2 + 1/T gradients an iteration of a request with both sides; a pass over the forget and replay rows for the mask.
    Source: Huang et al. 2025 (UG-CLU), Propositions 1 and 2 and the fast–slow update.
    """
    settings = dict(locals())
    check_settings(settings)

    def build(scene):
        bare = scene.bare
        shared = inner(steps) if inner else optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum))
        tx = ug_clu_transform(
            shared,
            max_norm=max_norm,
            learning_rate=optax.cosine_decay_schedule(learning_rate, steps),
            slow_step=slow_step,
            slow_every=repair if slow_per == "cycle" else 1,
            mask_forget=threshold is not None,
            mask_learn=learn_threshold is not None,
        )
        forget_loss = objective_loss(bare, objective or adaptive_ascent())
        learn_loss = weighed_learning(bare, learn_objective or plain_learning())
        compiled = {
            "forget": partial(compiled_step(bare, forget_loss, tx), phase=FORGET),
            "learn": partial(compiled_step(bare, learn_loss, tx), phase=LEARN),
            "remain": partial(compiled_step(bare, descend(bare), tx), phase=REMAIN),
            "fast": partial(both_steps(bare, forget_loss, learn_loss, tx), phase=FORGET),
        }
        estimate = fisher_of_batches(scene, fisher)

        def phases(learner, change):
            has_old_rows(learner, change, replay)  # or refuse, before any work
            return [Phase("adapt", lambda learner, key: prepare(learner, change, key))]

        def prepare(learner, change, key):
            mask_key, forget_key, learn_key, replay_key = jax.random.split(key, 4)
            old = has_old_rows(learner, change, replay)
            kept = old_rows_at(scene, learner, change, replay_key, replay, batch_size) if old else None
            sides = {
                "forget": (change.forget, threshold, forget_key),
                "learn": (change.learn, learn_threshold, learn_key),
            }
            at = {name: scene.batches(rows, batch_size, own) for name, (rows, _, own) in sides.items() if len(rows)}
            masks, facts = {}, {}
            limits = {name: sides[name][1] for name in at if sides[name][1] is not None}
            if limits and kept is not None:
                count = len(change.remain) if replay == "remain" else int(size(learner.memory))
                remain_at = old_rows_at(scene, learner, change, mask_key, replay, batch_size)
                remaining = estimate(learner, passes(remain_at, count, batch_size, fisher_batches))
                for name, limit in limits.items():
                    own = estimate(learner, passes(at[name], len(sides[name][0]), batch_size, fisher_batches))
                    masks[name] = ratio_mask(own, remaining, limit)
                    check_mask(masks[name], learner.params)
                    facts[f"{name}_density"] = density(masks[name])["total"]
            masked = tx._replace(init=lambda params: with_masks(tx.init(params), **masks))
            work = partial(iteration, at, kept)
            return Plan(learner.params, learner.stats, masked, compiled, work, steps, facts)

        return Rules(phases)

    def iteration(at, kept, s):
        """The steps of iteration s."""
        opens = s % repair == 0
        weight = np.float32(ascent * schedule(s / steps))
        annotated = {"weight": np.float32(learn_weight), "progress": np.float32(s / steps)}
        learn = lambda i: at["learn"](i) | annotated
        if kept is None and "learn" in at:
            plain = [("remain", at["learn"](s))]  # nothing else is known: plain training
            return (
                [("forget", at["forget"](s // repair) | {"weight": weight})] if opens and "forget" in at else []
            ) + plain
        found = []
        if learn_placement == "fast" and opens and len(at) == 2:
            found.append(
                ("fast", {"forget": at["forget"](s // repair) | {"weight": weight}, "learn": learn(s // repair)})
            )
        else:
            if opens and "forget" in at:
                found.append(("forget", at["forget"](s // repair) | {"weight": weight}))
            if "learn" in at and (learn_placement == "interleaved" or opens):
                found.append(("learn", learn(s if learn_placement == "interleaved" else s // repair)))
        return found if kept is None else [*found, ("remain", kept(s))]

    return Method("ug_clu", settings, build, replay)


def weighed_learning(bare, objective):
    """`batch["weight"]` × `objective(logits, labels, batch["progress"])` in train mode."""

    def loss(params, stats, batch, key):
        logits, stats = forward(bare, params, stats, batch, key, train=True)
        value, metrics = objective(logits, batch["y"], batch["progress"])
        return batch["weight"] * value, (stats, metrics)

    return loss


def both_steps(bare, forget_loss, learn_loss, tx):
    """A step on `{"forget": batch, "learn": batch}` that takes both gradients at the same parameters."""

    def part(name, loss):
        def of(params, stats, batch, key):
            value, (stats, metrics) = loss(params, stats, batch[name], key)
            return value, (stats, {f"{name}/{metric}": number for metric, number in metrics.items()})

        return of

    beside = {"learn_gradient": part("learn", learn_loss)}
    return make_train_step(part("forget", forget_loss), tx, mesh=bare.mesh, rules=bare.rules, beside=beside)


def check_settings(settings):
    """Refuse settings that cannot be meant; NaN fails every comparison and so is refused too."""
    for name in ("steps", "repair", "batch_size"):
        if not settings[name] >= 1 or settings[name] != int(settings[name]):
            raise ValueError(f"{name} is {settings[name]}; expected a whole number of at least 1.")
    for name in ("ascent", "learn_weight", "learning_rate", "weight_decay", "momentum", "threshold", "learn_threshold"):
        if settings[name] is not None and not settings[name] >= 0:
            raise ValueError(f"{name} is {settings[name]}; expected a number of at least 0.")
    if settings["max_norm"] is not None and not settings["max_norm"] > 0:
        raise ValueError(f"max_norm is {settings['max_norm']}; expected a positive norm, or None for no clipping.")
    if not 0 <= settings["slow_step"] <= 1:
        raise ValueError(f"slow_step is {settings['slow_step']}; expected a number in [0, 1].")
    choices = {"learn_placement": PLACES, "fisher": ("batch", "example"), "slow_per": ("iteration", "cycle")}
    for name, allowed in (choices | {"replay": ("memory", "remain")}).items():
        if settings[name] not in allowed:
            raise ValueError(f"{name} is {settings[name]!r}; expected one of {allowed}.")
