"""SFR-on's objective taken in one step an iteration: the Euclidean, fixed-Fisher and exact remain-Newton geometries.

The fast–slow update of `sfron` approximates the last one; these are its ablations and its reference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax
import optax

from clujax.adaptation.importance import balanced_mask, fisher_diagonals
from clujax.adaptation.losses import adaptive_ascent, cross_entropy, descend, objective_loss
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.optimizers import sgd
from clujax.adaptation.request import stream
from clujax.adaptation.schedules import cosine
from clujax.geometry import remain_gauss_newton
from clujax.training import TrainState
from clujax.transforms import mask_updates
from clujax.unlearning.methods.sfron import check_settings


def euclidean(**settings) -> Method:
    """Forget ascent and remain descent summed in one step: the plain metric of Proposition 1, with mask and weights.

    Settings as `one_step`, `remain_weight` 1 by default. Cost: two gradients per iteration.
    """
    settings = {"remain_weight": 1.0} | settings
    return one_step("euclidean", lambda request, key: lambda params, stats, batch, gradient: gradient, **settings)


def fixed_fisher(*, damping: float = 1e-3, **settings) -> Method:
    """Forget ascent preconditioned by the remaining rows' Fisher diagonal at the original network, never updated.

    The direction is damping/(F + damping) times the forget gradient: weights that matter to the remaining rows move less.
    Settings as `one_step`, `remain_weight` 1 by default. Cost: a pass over all rows, then two gradients per iteration.
    """

    def prepare(request, key):
        _, remain = fisher_diagonals(request, kind="example", key=key, batch_size=settings.get("batch_size", 128))
        shrink = jax.tree.map(lambda fisher: damping / (fisher + damping), remain)
        return lambda params, stats, batch, gradient: jax.tree.map(jnp.multiply, shrink, gradient)

    settings = {"remain_weight": 1.0} | settings
    return one_step("fixed_fisher", prepare, damping=damping, **settings)


def remain_newton(*, damping: float = 0.1, iterations: int = 10, **settings) -> Method:
    """Forget ascent preconditioned by the remaining rows' curvature where the network is now: Proposition 2 by CG.

    The curvature is the Gauss–Newton matrix of the remaining batch, the Hessian's positive part; the direction is
    damping · (G + damping)⁻¹ times the forget gradient, so that flat directions pass unchanged. There is no remaining
    descent (`remain_weight` 0): keeping is the metric's work.
    Settings as `one_step`. Cost: about 1 + 2·`iterations` gradients per iteration.
    """
    solver = lineax.CG(rtol=1e-3, atol=1e-6, max_steps=iterations)

    def prepare(request, key):
        def direction(params, stats, batch, gradient):
            def outputs(p):
                return request.classifier.apply(p, stats, batch["remain"]["x"], train=False)[0]

            def mean_loss(logits):
                return jnp.mean(cross_entropy(logits, batch["remain"]["y"]))

            solved = remain_gauss_newton(outputs, mean_loss, params, gradient, damping=damping, solver=solver)
            return jax.tree.map(lambda leaf: damping * leaf, solved)

        return direction

    settings = {"remain_weight": 0.0} | settings
    return one_step("remain_newton", prepare, damping=damping, iterations=iterations, **settings)


def one_step(
    name: str,
    precondition: Callable,
    *,
    remain_weight: float,
    steps: int = 355,
    ascent: float = 1.0,
    objective: Callable | None = None,
    schedule: Callable[[float], float] = cosine,
    threshold: float | None = 1.0,
    fisher: str = "batch",
    max_norm: float | None = 7.0,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    **recorded,
) -> Method:
    """A method that adds a preconditioned forget gradient and a weighted remain gradient, and steps once.

    Args:
      name: of the method.
      precondition: `precondition(request, key) -> direction(params, stats, batch, gradient) -> tree`, applied to the masked
        and clipped forget gradient.
      remain_weight: weight of the remaining descent.
      steps, ascent, objective, schedule, threshold, fisher, max_norm, batch_size, learning_rate, momentum, weight_decay:
        as for `sfron`.
      **recorded: settings of the caller, for the record.
    """
    settings = {key: value for key, value in locals().items() if key not in ("name", "precondition", "recorded")}
    settings |= recorded
    check_settings(settings)
    objective = objective or adaptive_ascent()

    def prepare(request, key):
        mask_key, own_key, forget_key, remain_key = jax.random.split(key, 4)
        mask, facts = None, {}
        if threshold is not None:
            mask, facts = balanced_mask(request, threshold, kind=fisher, batch_size=batch_size, key=mask_key)
        clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)
        shape_forget = optax.chain(mask_updates(mask), clip)
        tx = sgd(learning_rate, steps, momentum=momentum, weight_decay=weight_decay)
        direction = precondition(request, own_key)
        forget_loss = jax.value_and_grad(objective_loss(request, objective), has_aux=True)
        remain_loss = jax.value_and_grad(descend(request), has_aux=True)

        @jax.jit
        def step(state, batch):
            forget_draw, remain_draw = jax.random.split(jax.random.fold_in(state.key, state.step))
            (_, (stats, metrics)), gradient = forget_loss(state.params, state.stats, batch["forget"], forget_draw)
            gradient, _ = shape_forget.update(gradient, shape_forget.init(state.params))
            gradient = direction(state.params, state.stats, batch, gradient)
            (loss, (stats, _)), remain = remain_loss(state.params, stats, batch["remain"], remain_draw)
            total = jax.tree.map(lambda f, r: f + remain_weight * r, gradient, remain)
            updates, opt_state = tx.update(total, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            size = optax.tree_utils.tree_norm(updates)
            metrics = metrics | {"loss": loss, "update_norm": size, "finite": jnp.isfinite(loss) & jnp.isfinite(size)}
            return TrainState(params, stats, opt_state, state.step + 1, state.key), metrics

        forget_at = stream(request, request.forget, batch_size, forget_key)
        remain_at = stream(request, request.remain, batch_size, remain_key)

        def work(s):
            forget = forget_at(s) | {"weight": ascent * schedule(s / steps)}
            return [("both", {"forget": forget, "remain": remain_at(s)})]

        return Plan(request.params, request.stats, tx, {"both": step}, work, steps, facts)

    return Method(name, prepare, settings)
