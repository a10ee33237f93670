"""UNSIR: learn noise that the network cannot classify, impair it with that, repair it on remaining rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from clujax.adaptation.losses import cross_entropy, descend
from clujax.adaptation.method import Method, Plan
from clujax.adaptation.plans import check_numbers, float_inputs, num_batches
from clujax.adaptation.request import Request, compiled_step, stream


def unsir(
    *,
    noise_images: int = 32,
    noise_steps: int = 25,
    noise_rate: float = 0.1,
    copies: int = 80,
    per_class: int = 500,
    batch_size: int = 128,
    impair_rate: float = 1e-3,
    repair_rate: float = 1e-4,
    force: bool = False,
) -> Method:
    """Noise images that maximise a forgotten class's loss; a pass that learns them as that class; a repair pass.

    Noise is learned in units of the remaining inputs' spread around their mean, against the original network in eval mode:
    minimise −CE(noise, class) + 0.1 · mean ‖noise‖². Both passes are in train mode, without remaining rows but these.

    Args:
      noise_images: images of noise per forgotten class.
      noise_steps, noise_rate: Adam steps on the noise, and their rate.
      copies: times that each image is shown in the impair pass.
      per_class: remaining rows of each class shown in both passes, at most.
      impair_rate, repair_rate: constant rates of Adam in the two passes; its moments begin anew between them.
      force: carry on with a request that is not of whole classes; by default that is an error.

    Source: Tarun et al. 2023. Cost: `noise_steps` gradients of a batch, then one gradient per step of two passes.
    """
    settings = dict(locals())
    least = {"noise_images": 1, "noise_steps": 0, "noise_rate": 0, "copies": 1, "per_class": 1}
    check_numbers(settings, least=least | {"impair_rate": 0, "repair_rate": 0})

    def prepare(request, key):
        noise_key, subset_key, impair_key, repair_key = jax.random.split(key, 4)
        classes = np.unique(np.asarray(request.forget["y"]))
        labels = jnp.asarray(np.repeat(classes, noise_images), jnp.int32)
        x, _ = float_inputs(request, request.remain["x"])
        noise = learned_noise(request, x, labels, noise_key, noise_steps, noise_rate)
        order = np.asarray(jax.random.permutation(subset_key, len(request.remain["y"])))
        of = np.asarray(request.remain["y"])[order]
        chosen = np.concatenate([order[of == c][:per_class] for c in np.unique(of)])
        kept = {"x": x[chosen], "y": jnp.asarray(np.asarray(request.remain["y"])[chosen], jnp.int32)}
        shown = {"x": noise, "y": labels}
        impair = {name: jnp.concatenate([*[shown[name]] * copies, kept[name]]) for name in "xy"}
        first, second = num_batches(impair, batch_size), num_batches(kept, batch_size)
        tx = optax.adam(lambda count: jnp.where(count < first, impair_rate, repair_rate))
        impair_at = stream(request, impair, batch_size, impair_key)
        repair_at = stream(request, kept, batch_size, repair_key)
        step = compiled_step(request, descend(request), tx)

        def restart(state, _):
            fresh = jax.tree.map(jnp.zeros_like, state.opt_state[0])  # the moments, not the schedule's count
            return state._replace(opt_state=(fresh, *state.opt_state[1:])), {"finite": True}

        def work(s):
            if s < first:
                return [("impair", impair_at(s))]
            return [*([("restart", None)] if s == first else []), ("repair", repair_at(s - first))]

        steps = {"impair": step, "repair": step, "restart": restart}
        return Plan(request.params, request.stats, tx, steps, work, first + second)

    needs = {"forget", "remain"} | (set() if force else {"classes"})
    return Method("unsir", prepare, settings, frozenset(needs))


def learned_noise(request: Request, x: Array, labels: Array, key: PRNGKeyArray, num_steps: int, rate: float) -> Array:
    """Images of high loss for their labels and of small size, in the units of the rows `x`. Cost: a gradient per step."""
    centre, spread = jnp.mean(x, 0), jnp.maximum(jnp.std(x), 1e-6)
    tx = optax.adam(rate)

    def loss(noise, params):
        logits, _ = request.classifier.apply(params, request.stats, centre + spread * noise, train=False)
        size = jnp.mean(jnp.sum(noise**2, tuple(range(1, noise.ndim))))
        return -jnp.mean(cross_entropy(logits, labels)) + 0.1 * size

    @jax.jit
    def step(noise, state, params):
        updates, state = tx.update(jax.grad(loss)(noise, params), state)
        return optax.apply_updates(noise, updates), state

    noise = jax.random.normal(key, (len(labels), *x.shape[1:]), x.dtype)
    state = tx.init(noise)
    for _ in range(num_steps):
        noise, state = step(noise, state, request.params)
    return centre + spread * noise
