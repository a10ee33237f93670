"""MUSO: finetune on the labels that a model retrained on the remaining rows would give the forgotten ones."""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.method import Method, Plan
from clujax.adaptation.request import compiled_step, forward, stream
from clujax.data import padded
from clujax.errors import RequestError
from clujax.geometry import featurize, fourier_features, median_distance
from clujax.unlearning import heads
from clujax.unlearning.random_features import dot


def published_ridge(progress: float) -> float:
    """The official schedule, an absolute ridge: 1e-6 rising as a cosine to 1e-2."""
    return 1e-6 + (1e-2 - 1e-6) * (1 - math.cos(math.pi * progress)) / 2


def muso(
    *,
    epochs: int = 5,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    inner: Callable[[int], optax.GradientTransformation] | None = None,
    source: str = "current",
    formula: str = "ridge",
    ridge: float | Callable[[float], float] = 1e-2,
    targets: str = "onehot",
    temperature: float | None = None,
    drift: bool = False,
    subset: float = 1.0,
    relabel_every: int | None = None,
    batch_norm: str = "train",
    pairs: int = 2000,
    missing_initial: str = "error",
    official_offset: bool = False,
) -> Method:
    """Alternate: refit a head on the remaining rows and relabel the forgotten ones by it; finetune on all rows.

    Labels are Z_u V with V = V₀ + (G + ε)⁻¹(B − G V₀), where G and B are sums over the remaining rows (`heads.refit_head`)
    and V₀ is the head before training. Exact for a linear model on fixed features (`random_features`).

    Args:
      epochs: passes over all rows.
      inner: `inner(steps) -> transformation`; by default Adam at `learning_rate`.
      source: features that labels are made of: "current" (of the network as it is, each round), "initial" (of the network
        before training) or "random" (Fourier features of the raw inputs, which never saw a forgotten row; labels are then
        made once). "current" suits classes, "random" suits random rows.
      formula: "ridge", or "published" for the official label-free operator in exact arithmetic, for comparison: with more
        remaining rows than features its labels are those of the trained network.
      ridge: for "ridge" relative to the mean eigenvalue of G; for "published" absolute. A number, or a function of a
        round's progress in [0, 1] such as `published_ridge`, which "published" takes for any number.
      targets: of the refit: "onehot" (minus 1/C) or "original" (logits of the trained network).
      temperature: None for hard labels, else the temperature of soft ones.
      drift: add what the head of the trained network says of the change of features since.
      subset: share of the remaining rows, drawn anew each round, that the head is refitted on.
      relabel_every: steps between rounds; None relabels at each epoch.
      batch_norm: "train" (averages follow the mixed batches, as published), "frozen" (eval mode throughout), or "refresh"
        (computed anew on remaining rows at each round and at the end).
      pairs: of cosines and sines, for "random".
      missing_initial: "zeros" takes V₀ = 0, with a warning, where a request has no `initial`; "error" refuses.
      official_offset: use each round's ridge one round late, as the official code does.

    Raises:
      ValueError: a setting that is not listed above.
      RequestError: the request lacks the parameters before training, or holds one class alone.

    Cost: one gradient a step, and a round is one forward pass over all rows with n h² + h³/3 + h² C for the head.
    Source: Yang et al., arXiv 2410.08557.
    """
    settings = dict(locals())
    _check(settings)
    needs = {"forget", "remain"} | ({"features"} if source != "random" else set())
    if source != "random" and missing_initial == "error":
        needs |= {"initial"}

    def prepare(request, key):
        if len(np.union1d(np.asarray(request.forget["y"]), np.asarray(request.remain["y"]))) < 2:
            raise RequestError("all rows are of one class: there is no other label to give. MUSO needs two classes.")
        stream_key, source_key = jax.random.split(key)
        num_forget, num_remain = len(request.forget["y"]), len(request.remain["y"])
        rows = {
            "x": jnp.concatenate([jnp.asarray(request.forget["x"]), jnp.asarray(request.remain["x"])]),
            "y": np.concatenate([np.asarray(request.forget["y"]), np.asarray(request.remain["y"])]).astype(np.int32),
            "row": np.concatenate([np.arange(num_forget), np.full(num_remain, -1)]).astype(np.int32),
        }
        per_epoch = math.ceil((num_forget + num_remain) / batch_size)
        num_steps = epochs * per_epoch
        every = relabel_every or per_epoch
        rounds = -(-num_steps // every)
        tx = inner(num_steps) if inner else optax.adam(learning_rate)
        batch_at = stream(request, rows, batch_size, stream_key)
        relabel = _relabel(request, settings, rounds, source_key)

        def loss(params, stats, batch, key):
            logits, network = forward(request, params, stats["network"], batch, key, train=batch_norm == "train")
            known = jax.nn.one_hot(batch["y"], request.num_classes)
            wanted = jnp.where(batch["row"][:, None] >= 0, stats["targets"][batch["row"]], known)
            return jnp.mean(optax.softmax_cross_entropy(logits, wanted)), (stats | {"network": network}, {})

        def work(s):
            fresh = [("relabel", s // every)] if s % every == 0 and (s == 0 or source != "random") else []
            return [*fresh, ("both", batch_at(s))]

        def finish(params, stats):
            refreshed = batch_norm == "refresh"
            return params, _refresh(request, params, stats["network"]) if refreshed else stats["network"]

        empty = jnp.zeros((num_forget, request.num_classes), jnp.float32)
        return Plan(
            request.params,
            {"network": request.stats, "targets": empty},
            tx,
            {"relabel": relabel, "both": compiled_step(request, loss, tx)},
            work,
            num_steps,
            finish=finish,
        )

    return Method("muso", prepare, settings, frozenset(needs))


def _relabel(request, settings, rounds, key):
    """A step that replaces the targets of the forget rows by what a head refitted on remain says of them."""
    schedule, published = settings["ridge"], settings["formula"] == "published"
    if not callable(schedule):
        schedule = published_ridge if published else lambda progress: settings["ridge"]
    source_key, subset_key = jax.random.split(key)
    read, start = _features(request, settings, source_key)
    own, num_remain = np.asarray(request.forget["y"]), len(request.remain["y"])
    if published and num_remain >= len(start):
        warnings.warn(
            f"{num_remain} remaining rows for {len(start)} features: the published labels will be about the trained"
            " network's own predictions. Use formula='ridge'.",
            stacklevel=2,
        )

    def scores_of(params, stats, number):
        place = max(number - 1, 0) if settings["official_offset"] else number
        ridge = schedule(place / max(rounds - 1, 1))
        rows = _subset(request.remain, settings["subset"], jax.random.fold_in(subset_key, number))
        base = request.initial if settings["source"] == "initial" else params
        before = _read_all(read, request.params, request.stats, request.forget["x"])
        forget = _read_all(read, base, stats, request.forget["x"])
        if published:  # float64: with the official ridge, float32 labels would be rounding noise
            with jax.enable_x64(True):
                trained = np.asarray(heads.head_of(request.params, request.classifier.head), np.float64)
                gram = _gram(request, read, base, stats, rows, settings["targets"], np.float64)
                head = heads.published_head(gram, np.asarray(start, np.float64), trained, ridge)
                return np.asarray(dot(forget.astype(np.float64), head) - dot(before.astype(np.float64), trained))
        gram = _gram(request, read, base, stats, rows, settings["targets"], np.float32)
        size = float(heads.absolute_ridge(gram, ridge))
        heads.check_ridge(gram, size)
        scores = dot(forget, heads.refit_head(gram, start, size))
        if settings["drift"]:
            scores += dot(forget - before, heads.head_of(request.params, request.classifier.head))
        return np.asarray(scores)

    def relabel(state, number):
        stats = state.stats["network"]
        if settings["batch_norm"] == "refresh":
            stats = _refresh(request, state.params, stats)
        scores = scores_of(state.params, stats, int(number))
        if settings["temperature"] is None:
            targets = jax.nn.one_hot(scores.argmax(-1), request.num_classes)
        else:
            targets = jax.nn.softmax(scores.astype(np.float32) / settings["temperature"])
        metrics = {"changed": np.mean(scores.argmax(-1) != own), "finite": np.isfinite(scores).all()}
        return state._replace(stats={"network": stats, "targets": targets}), metrics

    return relabel


def _features(request, settings, key):
    """`read(params, stats, x) -> [n, h + 1]` of the chosen source, and the head V₀ that goes with it."""
    path = request.classifier.head
    if settings["source"] == "random":
        draw_key, pair_key = jax.random.split(key)
        flatten = lambda x: jnp.asarray(x, jnp.float32).reshape(len(x), -1)
        inputs = flatten(request.remain["x"])
        # Half the median distance, the scale of the reference experiment.
        scale = float(median_distance(inputs, pair_key)) / 2
        drawn = fourier_features(draw_key, inputs.shape[1], settings["pairs"], scale)
        start = jnp.zeros((2 * settings["pairs"], request.num_classes), jnp.float32)
        return jax.jit(lambda params, stats, x: featurize(drawn, flatten(x))), start
    read = jax.jit(lambda params, stats, x: heads.with_one(request.classifier.features(params, stats, x)))
    if request.initial is not None:
        return read, heads.head_of(request.initial, path)
    warnings.warn("The request has no initial parameters; the head before training is taken as 0.", stacklevel=2)
    return read, jnp.zeros_like(heads.head_of(request.params, path))


def _gram(request, read, params, stats, rows, targets, dtype):
    """The sums over remaining rows, batch by batch: O(h²) memory."""
    add, total = jax.jit(heads.gram_update), None
    for batch in padded({"x": rows["x"], "y": rows["y"]}, min(500, len(rows["y"]))):
        features = np.asarray(read(params, stats, batch["x"]), dtype)
        answers = heads.centred_targets(batch["y"], request.num_classes)
        if targets == "original":
            answers, _ = request.classifier.apply(request.params, request.stats, jnp.asarray(batch["x"]), train=False)
        if total is None:
            total = heads.gram_init(features.shape[1], request.num_classes, dtype)
        total = add(total, features, np.asarray(answers, dtype), batch["weight"])
    return total


def _read_all(read, params, stats, x):
    """Features of all rows, in batches of one shape."""
    batches = padded({"x": x}, min(500, len(x)))
    return np.concatenate([np.asarray(read(params, stats, b["x"]))[np.asarray(b["weight"]) > 0] for b in batches])


def _subset(rows, share, key):
    """A uniform share of the rows, drawn without replacement."""
    count = max(1, round(share * len(rows["y"])))
    chosen = np.asarray(jax.random.permutation(key, len(rows["y"])))[:count] if share < 1 else slice(None)
    return {name: np.asarray(rows[name])[chosen] for name in ("x", "y")}


def _refresh(request, params, stats, batch_size=100):
    """BatchNorm averages of the remaining rows alone: a train-mode pass that keeps nothing but the stats."""
    if not stats:
        return stats
    advance = jax.jit(lambda stats, x: request.classifier.apply(params, stats, x, train=True, key=jax.random.key(0))[1])
    rows = request.remain["x"]
    for first in range(0, max(len(rows) - batch_size, 0) + 1, batch_size):
        stats = advance(stats, jnp.asarray(rows[first : first + batch_size]))
    return stats


def _check(settings):
    """Refuse settings that cannot be meant."""
    choices = {
        "source": ("current", "initial", "random"),
        "formula": ("ridge", "published"),
        "targets": ("onehot", "original"),
        "batch_norm": ("train", "frozen", "refresh"),
        "missing_initial": ("error", "zeros"),
    }
    for name, allowed in choices.items():
        if settings[name] not in allowed:
            raise ValueError(f"{name} is {settings[name]!r}; expected one of {allowed}.")
    for name in ("epochs", "batch_size", "pairs"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}; expected at least 1.")
    if settings["relabel_every"] is not None and settings["relabel_every"] < 1:
        raise ValueError(f"relabel_every is {settings['relabel_every']}; expected at least 1 step, or None.")
    if not 0 < settings["subset"] <= 1:
        raise ValueError(f"subset is {settings['subset']}; expected a share in (0, 1].")
    if settings["temperature"] is not None and not settings["temperature"] > 0:
        raise ValueError(f"temperature is {settings['temperature']}; expected a positive number, or None.")
    if not callable(settings["ridge"]) and not settings["ridge"] >= 0:
        raise ValueError(f"ridge is {settings['ridge']}; expected a number of at least 0, or a schedule.")
    if settings["formula"] == "published" and settings["source"] == "random":
        raise ValueError("formula 'published' needs the network's head; use source='current' or 'initial'.")
