"""SCRUB: push the student away from its teacher on the forget rows, keep it close on the rest; SCRUB+R rewinds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.losses import augmented, cross_entropy, distillation
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.plans import check_numbers, network_only, num_batches, teach, with_teachers
from clujax.adaptation.predictions import predict
from clujax.adaptation.request import compiled_step, forward, stream
from clujax.errors import RequestError


def scrub(
    *,
    epochs: int = 6,
    forget_epochs: int = 2,
    batch_size: int = 128,
    forget_batch_size: int | None = None,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    temperature: float = 4.0,
    supervision: float = 0.99,
    imitation: float = 0.001,
    inner: Callable[[int], optax.GradientTransformation] | None = None,
) -> Method:
    """Alternate a pass that maximises KL(teacher ‖ student) on forget with one of γ·CE + α·KL on remain.

    The teacher is the original network in eval mode, on the same augmented inputs as the student, which is in train mode.

    Args:
      epochs: passes over the remaining rows.
      forget_epochs: how many of them, from the first, begin with a pass over the forget rows; 0 leaves finetuning.
      forget_batch_size: of the forget passes; None takes `batch_size` (published: 32 beside 128).
      temperature: T of KL, which is multiplied by T².
      supervision, imitation: γ and α.
      inner: `inner(steps) -> transformation`, replaces the optimizer (published for small networks: Adam).

    Source: Kurmanji et al. 2023. Cost: one gradient and one forward per step; memory: a second copy of the network.
    """
    settings = dict(locals())
    check_numbers(settings, least={"forget_epochs": 0, "forget_batch_size": 1, "supervision": 0, "imitation": 0})
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number.")
    for name in ("epochs", "forget_epochs"):
        if settings[name] != int(settings[name]):
            raise ValueError(f"{name} is {settings[name]}; expected whole passes.")
    needs = frozenset({"forget", "remain", "teacher"})
    return Method("scrub", lambda request, key: _plan(request, key, settings), settings, needs)


def scrub_r(*, epochs: int = 6, **settings) -> Method:
    """SCRUB with rewinding: of the network after each epoch, 0 included, the one that has forgotten just enough.

    That is the one whose error on the forget rows is nearest to the last network's error on validation rows of the same
    classes; the first of equals. Settings as `scrub`. Memory: `epochs` + 1 more copies of the network, which checkpoints hold
    too. Cost: as `scrub`, and a forward pass over the forget rows for each epoch at the end.
    """
    method = scrub(epochs=epochs, **settings)

    def prepare(request, key):
        kinds = np.unique(np.asarray(request.forget["y"]))
        alike = np.isin(np.asarray(request.validation["y"]), kinds)
        if not alike.any():
            raise RequestError(
                f"validation has no row of the forgotten classes {kinds.tolist()}, which SCRUB+R measures its target on."
            )
        unseen = {name: np.asarray(request.validation[name])[alike] for name in "xy"}
        plan = _plan(request, key, method.settings)
        epoch_of = {end: epoch for epoch, end in enumerate(plan.facts["epoch_ends"], 1)}
        kept = jax.tree.map(lambda leaf: jnp.stack([leaf] * (epochs + 1)), (request.params, request.stats))

        def work(s):
            return [*plan.work(s), *([("keep", epoch_of[s + 1])] if s + 1 in epoch_of else [])]

        def without_kept(step):
            def run(state, batch):
                stats = dict(state.stats)
                kept = stats.pop("kept")
                new, metrics = step(state._replace(stats=stats), batch)
                return new._replace(stats=new.stats | {"kept": kept}), metrics

            return run

        def keep(state, epoch):
            now = (state.params, state.stats["network"])
            kept = jax.tree.map(lambda all_, leaf: all_.at[epoch].set(leaf), state.stats["kept"], now)
            return state._replace(stats=state.stats | {"kept": kept}), {"finite": True}

        def finish(params, stats):
            target = _error(request, params, stats["network"], unseen)
            candidates = [jax.tree.map(lambda leaf, e=e: leaf[e], stats["kept"]) for e in range(epochs + 1)]
            errors = [_error(request, *candidate, request.forget) for candidate in candidates]
            return candidates[int(np.argmin(np.abs(np.array(errors) - target)))]

        steps = {name: without_kept(step) for name, step in plan.steps.items()} | {"keep": keep}
        return plan._replace(stats=plan.stats | {"kept": kept}, steps=steps, work=work, finish=finish)

    return Method("scrub_r", prepare, method.settings, method.needs | {"validation"})


def _error(request, params, stats, rows):
    """Share of rows that are classified wrongly, in eval mode."""
    return float(np.mean(predict(request.classifier, params, stats, rows["x"]).argmax(-1) != np.asarray(rows["y"])))


def _plan(request, key, settings):
    forget_key, remain_key = jax.random.split(key)
    size, temperature = settings["batch_size"], settings["temperature"]
    forget_size = settings["forget_batch_size"] or size
    per_forget, per_remain = num_batches(request.forget, forget_size), num_batches(request.remain, size)
    forget_at = stream(request, request.forget, forget_size, forget_key)
    remain_at = stream(request, request.remain, size, remain_key)
    both, long = min(settings["forget_epochs"], settings["epochs"]), per_forget + per_remain
    epoch_ends = [min(e, both) * per_forget + e * per_remain for e in range(1, int(settings["epochs"]) + 1)]
    num_steps = epoch_ends[-1] if epoch_ends else 0
    if settings["inner"]:
        tx = settings["inner"](num_steps)
    else:
        tx = sgd(
            **{name: settings[name] for name in ("learning_rate", "momentum", "weight_decay")}, num_steps=num_steps
        )

    def work(s):
        epoch, place = divmod(s, long)
        if epoch >= both:
            return [("remain", remain_at(s - int(both) * per_forget))]
        if place < per_forget:
            return [("forget", forget_at(epoch * per_forget + place))]
        return [("remain", remain_at(epoch * per_remain + place - per_forget))]

    def compare(params, stats, batch, key):
        """Logits, mean KL to the teacher, and stats."""
        augment_key, network_key = jax.random.split(key)
        shown = augmented(request, batch, augment_key)
        logits, network = forward(
            request._replace(augment=None), params, stats["network"], shown, network_key, train=True
        )
        divergence = jnp.mean(distillation(logits, teach(request, stats["teacher"], shown["x"]), temperature))
        return logits, divergence, stats | {"network": network}

    def away(params, stats, batch, key):
        _, divergence, stats = compare(params, stats, batch, key)
        return -divergence, (stats, {})

    def close(params, stats, batch, key):
        logits, divergence, stats = compare(params, stats, batch, key)
        learning = jnp.mean(cross_entropy(logits, batch["y"]))
        return settings["supervision"] * learning + settings["imitation"] * divergence, (stats, {})

    return Plan(
        request.params,
        with_teachers(request, teacher=(request.params, request.stats)),
        tx,
        {"forget": compiled_step(request, away, tx), "remain": compiled_step(request, close, tx)},
        work,
        num_steps,
        {"epoch_ends": epoch_ends},
        network_only,
    )
