"""SCRUB: push the student away from its teacher on the forget rows, keep it close on the rest; SCRUB+R rewinds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.errors import RequestError
from clujax.unlearning.losses import cross_entropy, distillation
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.optimizers import sgd
from clujax.unlearning.plans import check_numbers, num_batches
from clujax.unlearning.request import compiled_step, forward, stream


def scrub(
    *,
    epochs: int = 6,
    forget_epochs: int = 2,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    temperature: float = 4.0,
    supervision: float = 0.99,
    imitation: float = 0.001,
    inner: Callable[[int], optax.GradientTransformation] | None = None,
) -> Method:
    """Alternate a pass that maximises KL(teacher ‖ student) on forget with one of γ·CE + α·KL on remain.

    The first `forget_epochs` epochs begin with a forget pass; the teacher is the original network. `inner(steps)` replaces
    the optimizer (published for small networks: Adam).
    Source: Kurmanji et al. 2023, γ = supervision, α = imitation. Cost: one gradient and one forward per step.
    """
    settings = dict(locals())
    check_numbers(settings, least={"forget_epochs": 0, "supervision": 0, "imitation": 0})
    return Method(
        "scrub",
        lambda request, key: _plan(request, key, **settings),
        settings,
        frozenset({"forget", "remain", "teacher"}),
    )


def scrub_r(*, epochs: int = 6, **settings) -> Method:
    """SCRUB with rewinding: of the network after each epoch, 0 included, the one that has forgotten just enough.

    That is the one whose error on the forget rows is nearest to the last network's error on validation rows of the same
    classes. Settings as `scrub`. Memory: `epochs` + 1 copies of the network. Cost: as `scrub`, and a forward pass over the
    forget rows for each epoch at the end.
    """
    method = scrub(epochs=epochs, **settings)
    full = method.settings

    def prepare(request, key):
        plan = _plan(request, key, **full)
        kinds = np.unique(np.asarray(request.forget["y"]))
        alike = np.isin(np.asarray(request.validation["y"]), kinds)
        if not alike.any():
            raise RequestError(
                f"validation has no row of the forgotten classes {kinds.tolist()}, which SCRUB+R measures its target on."
            )
        ends = _epoch_ends(request, full)
        keep = lambda kept, params, stats, place: jax.tree.map(
            lambda all_, leaf: all_.at[place].set(leaf), kept, (params, stats)
        )
        kept = jax.tree.map(lambda leaf: jnp.stack([leaf] * (epochs + 1)), (request.params, request.stats))

        def work(s):
            return [*plan.work(s), *([("keep", ends.index(s + 1) + 1)] if s + 1 in ends else [])]

        def inside(step):
            def run(state, batch):
                kept = state.stats["kept"]
                new, metrics = step(state._replace(stats=state.stats["network"]), batch)
                return new._replace(stats={"network": new.stats, "kept": kept}), metrics

            return run

        def keep_step(state, place):
            kept = keep(state.stats["kept"], state.params, state.stats["network"], place)
            return state._replace(stats=state.stats | {"kept": kept}), {"finite": True}

        def finish(params, stats):
            target = _error(
                request, params, stats["network"], request.validation["x"][alike], request.validation["y"][alike]
            )
            candidates = [jax.tree.map(lambda leaf, e=e: leaf[e], stats["kept"]) for e in range(epochs + 1)]
            errors = [_error(request, *candidate, request.forget["x"], request.forget["y"]) for candidate in candidates]
            return candidates[int(np.argmin(np.abs(np.array(errors) - target)))]

        steps = {name: inside(step) for name, step in plan.steps.items()} | {"keep": keep_step}
        stats = {"network": request.stats, "kept": kept}
        return plan._replace(stats=stats, steps=steps, work=work, finish=finish)

    return Method("scrub_r", prepare, full, method.needs | {"validation"})


def _error(request, params, stats, x, y, size=500):
    """Share of rows that are classified wrongly, in eval mode."""
    x, y = np.asarray(x), np.asarray(y)
    predict = jax.jit(lambda x: request.classifier.apply(params, stats, x, train=False)[0].argmax(-1))
    return float(np.mean(np.concatenate([predict(x[i : i + size]) for i in range(0, len(y), size)]) != y))


def _epoch_ends(request, settings):
    """Steps after which each epoch is over."""
    forget, remain = (num_batches(rows, settings["batch_size"]) for rows in (request.forget, request.remain))
    lengths = [remain + (forget if epoch < settings["forget_epochs"] else 0) for epoch in range(settings["epochs"])]
    return np.cumsum(lengths).tolist()


def _plan(
    request,
    key,
    *,
    epochs,
    forget_epochs,
    batch_size,
    learning_rate,
    momentum,
    weight_decay,
    temperature,
    supervision,
    imitation,
    inner,
):
    forget_key, remain_key = jax.random.split(key)
    per_forget, per_remain = (num_batches(rows, batch_size) for rows in (request.forget, request.remain))
    names = []
    for epoch in range(epochs):
        names += ["forget"] * (per_forget if epoch < forget_epochs else 0) + ["remain"] * per_remain
    positions = [names[:s].count(name) for s, name in enumerate(names)]
    streams = {
        "forget": stream(request, request.forget, batch_size, forget_key),
        "remain": stream(request, request.remain, batch_size, remain_key),
    }
    tx = inner(len(names)) if inner else sgd(learning_rate, len(names), momentum=momentum, weight_decay=weight_decay)

    def teacher(batch):
        return jax.lax.stop_gradient(
            request.classifier.apply(request.params, request.stats, batch["x"], train=False)[0]
        )

    def away(params, stats, batch, key):
        logits, stats = forward(request, params, stats, batch, key, train=True)
        return -jnp.mean(distillation(logits, teacher(batch), temperature)), (stats, {})

    def close(params, stats, batch, key):
        logits, stats = forward(request, params, stats, batch, key, train=True)
        imitate = jnp.mean(distillation(logits, teacher(batch), temperature))
        learn = jnp.mean(cross_entropy(logits, batch["y"]))
        return supervision * learn + imitation * imitate, (stats, {})

    steps = {"forget": compiled_step(request, away, tx), "remain": compiled_step(request, close, tx)}
    return Plan(
        request.params,
        request.stats,
        tx,
        steps,
        lambda s: [(names[s], streams[names[s]](positions[s]))],
        len(names),
    )
