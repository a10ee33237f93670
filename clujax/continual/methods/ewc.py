"""Elastic weight consolidation: hold weights where they were by how much earlier rows rest on them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.plans import check_choice
from clujax.continual.method import Method, Rules, Scene
from clujax.continual.methods.parts import adapting, check_training, forward_parts
from clujax.data import gather, padded
from clujax.geometry import batch_diagonal


class Penalty(NamedTuple):
    """Σ_t Σ_i F_ti (θ_i − θ_ti)² in constant memory: = Σ_i importance_i (θ_i − anchor_i)² + spread.

    Attributes:
      importance: Σ_t F_t.
      anchor: Σ_t F_t θ_t / Σ_t F_t.
      spread: what the penalties are at the anchor, where their centres differ.
    """

    importance: PyTree
    anchor: PyTree
    spread: Float[Array, ""]


def ewc(
    *,
    strength: float = 100.0,
    fisher: str = "true",
    fisher_rows: int | None = None,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn) + λ/2 Σ_t Σ_i F_ti (θ_i − θ_ti)², with one quadratic for each request t that learned rows.

    F_t is the diagonal Fisher information of the rows just learned at θ_t, where that request ended. The sum is kept by its
    total and its centre (`Penalty`), so memory does not grow with requests.

    A forget-only request does nothing, and rows to forget are never used; but what a row put into the Fisher information when
    it was learned cannot be taken out again, and goes on holding the network near where it knew the row.

    Args:
      strength: λ ≥ 0. A step is stable while learning_rate · λ · max ΣF is below about 2 (1 + momentum).
      fisher: "true" (labels drawn from the network), "exact" (expectation over them) or "example" (the rows' own labels).
      fisher_rows: at most this many of the new rows, drawn at random, make F_t; None takes all.

    Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks". Cost: one gradient of a batch
    per step, and one gradient per row learned at the end (C for "exact"); memory: three copies of the network.
    """
    settings = dict(locals())
    return _method("ewc", settings, lambda held, fisher, params: add_penalty(held, fisher, params))


def online_ewc(
    *,
    strength: float = 100.0,
    decay: float = 0.95,
    fisher: str = "true",
    fisher_rows: int | None = None,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn) + λ/2 Σ_i F̃_i (θ_i − θ*_i)², with F̃ ← γ F̃ + F_t and θ* where the last learning request ended.

    Args:
      decay: γ in [0, 1], by which older Fisher information fades.

    Other arguments, forget requests and what cannot be taken out: as for `ewc`.
    Source: Schwarz et al. 2018, "Progress & Compress". Cost: as `ewc`.
    """
    settings = dict(locals())
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}; expected a factor in [0, 1].")
    return _method("online_ewc", settings, lambda held, fisher, params: move_penalty(held, fisher, params, decay))


def no_penalty(params: PyTree) -> Penalty:
    """The penalty before anything was learned."""
    wide = lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))
    return Penalty(jax.tree.map(wide, params), jax.tree.map(wide, params), jnp.zeros(()))


@jax.jit
def add_penalty(held: Penalty, fisher: PyTree, params: PyTree) -> Penalty:
    """The penalty with one more term Σ_i F_i (θ_i − params_i)²; exact, by the parallel axis theorem."""
    total = jax.tree.map(jnp.add, held.importance, fisher)
    share = jax.tree.map(lambda part, whole: jnp.where(whole > 0, part / whole, 0.0), fisher, total)
    anchor = jax.tree.map(lambda a, s, p: a + s * (p - a), held.anchor, share, params)
    apart = jax.tree.map(lambda f, s, a, p: f * (1 - s) * jnp.square(p - a), fisher, share, held.anchor, params)
    return Penalty(total, anchor, held.spread + _sum(apart))


@jax.jit
def move_penalty(held: Penalty, fisher: PyTree, params: PyTree, decay: float | Float[Array, ""]) -> Penalty:
    """The penalty of decayed importance, centred where the network is now."""
    return Penalty(jax.tree.map(lambda old, new: decay * old + new, held.importance, fisher), params, held.spread)


def penalty(held: Penalty, params: PyTree) -> Float[Array, ""]:
    """Σ_t Σ_i F_ti (θ_i − θ_ti)²."""
    terms = jax.tree.map(lambda f, a, p: f * jnp.square(p - a), held.importance, held.anchor, params)
    return _sum(terms) + held.spread


def fisher_of(scene: Scene, *, kind: str, batch_size: int, limit: int | None = None) -> Callable[..., PyTree]:
    """`estimate(params, stats, rows, key)`, the mean squared gradient of the rows in eval mode, one program for any rows.

    Rows that fill up the last batch have weight 0 on their logits, and so gradient 0.
    """
    # On a CPU a copy of the weights for each row of a batch falls out of the cache: one row at a time is faster there.
    microbatch = 1 if jax.default_backend() == "cpu" else None

    @partial(jax.jit, donate_argnums=0)
    def add(total, params, stats, batch, key, first_row):
        def outputs(params, rows):
            return scene.classifier.apply(params, stats, rows["x"], train=False)[0] * rows["weight"][:, None]

        losses = lambda params, rows: cross_entropy(outputs(params, rows), rows["y"])
        options = {"kind": kind, "outputs": outputs, "key": key, "first_row": first_row, "microbatch": microbatch}
        found = batch_diagonal(losses, params, batch, **options)
        return jax.tree.map(lambda total, leaf: total + batch_size * leaf, total, found)

    def estimate(params, stats, rows, key):
        order_key, label_key = jax.random.split(key)
        if limit is not None and len(rows) > limit:
            chosen = jax.random.bits(order_key, (len(scene.columns["y"]),))  # one program, however many rows there are
            rows = rows[jax.device_get(chosen)[rows].argsort(kind="stable")[:limit]]
        total = no_penalty(params).importance
        for i, batch in enumerate(padded({"index": rows}, batch_size)):
            part = gather({name: scene.columns[name] for name in "xy"}, batch["index"])
            total = add(total, params, stats, part | {"weight": batch["weight"]}, label_key, i * batch_size)
        return jax.tree.map(lambda leaf: leaf / len(rows), total)

    return estimate


def _method(name, settings, update):
    check_training(settings, strength=0, fisher_rows=1)
    check_choice("fisher", settings["fisher"], ("true", "exact", "example"))
    strength = settings["strength"]

    def build(scene):
        estimate = fisher_of(
            scene, kind=settings["fisher"], batch_size=settings["batch_size"], limit=settings["fisher_rows"]
        )

        def loss(params, stats, batch, key):
            logits, _, stats = forward_parts(scene.bare, params, stats, batch, key)
            learning = jnp.mean(cross_entropy(logits["learn"], batch["learn"]["y"]))
            held = penalty(stats["penalty"], params)
            return learning + strength / 2 * held, (stats, {"learn_loss": learning, "penalty": held})

        carry = lambda learner, change, key: {"penalty": learner.extra}

        def end(learner, change, key):
            if not len(change.learn):
                return learner
            found = estimate(learner.params, learner.stats, change.learn, key)
            return learner._replace(extra=update(learner.extra, found, learner.params))

        phases = adapting(scene, loss, settings, parts=("learn",), carry=carry)
        return Rules(phases, start=lambda learner: no_penalty(learner.params), end=end)

    return Method(name, settings, build, replay="none")


def _sum(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))
