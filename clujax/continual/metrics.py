"""What a request did, group by group of rows and beside the oracle; and what a whole stream did."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from clujax import attacks
from clujax.adaptation.metric import Metric, beside
from clujax.continual.request import FORGOTTEN, NEVER, Change
from clujax.geometry import entropy, kl

METRICS = (
    beside("FA", "Forget accuracy", "%", "Accuracy on the rows that the request forgets.", "utility", True),
    beside("RA", "Remain accuracy", "%", "Accuracy on training rows learned before that stay.", "utility", True),
    beside("LA", "Learn accuracy", "%", "Accuracy on the rows that the request learns.", "utility", True),
    beside("TA", "Test accuracy", "%", "Accuracy on unseen rows of the classes that are kept.", "utility", True),
    beside("TA_task", "Test acc., task known", "%", "The same among the classes of a row's own task.", "utility"),
    beside("FA_test", "Forget test acc.", "%", "Accuracy on unseen rows of classes forgotten whole.", "utility"),
    beside("MIA", "Membership", "%", "Forgotten rows that an attack on entropy calls members.", "privacy", True),
    beside("Margin", "Margin", "", "Mean logit of the true class over the best other, forgotten rows.", "privacy"),
    beside(
        "Relapse",
        "Relapse",
        "%",
        "Accuracy on rows that earlier requests forgot: what rises above the oracle's came back.",
        "privacy",
        True,
    ),
    Metric(
        "KL_forget",
        "KL, forgotten",
        "nat",
        "lower",
        0.0,
        "Mean KL(oracle ‖ network), rows of the request that are forgotten.",
        "output",
        True,
    ),
    Metric(
        "KL_kept",
        "KL, kept",
        "nat",
        "lower",
        0.0,
        "Mean KL(oracle ‖ network), rows that are kept or learned.",
        "output",
        True,
    ),
    Metric(
        "KL_relapse", "KL, relapse", "nat", "lower", 0.0, "Mean KL(oracle ‖ network), rows forgotten earlier.", "output"
    ),
    Metric("AvgD", "Avg. D", "%", "lower", 0.0, "Mean absolute gap of FA, RA, LA and TA.", "summary", True),
    Metric("AvgD_MIA", "Avg. D, MIA", "%", "lower", 0.0, "The same with the membership attack.", "summary"),
    Metric("seconds", "Time a request", "s", "lower", 0.0, "Preparing and running, without compiling.", "cost", True),
)
AVERAGED = ("FA", "RA", "LA", "TA")


class Outputs(NamedTuple):
    """Logits of one network on all training rows and all test rows of a stream."""

    train: Float[np.ndarray, "N C"]
    test: Float[np.ndarray, "T C"]


class Groups(NamedTuple):
    """Which rows a request touches: training rows, then test rows."""

    forget: Bool[np.ndarray, " N"]
    remain: Bool[np.ndarray, " N"]
    learn: Bool[np.ndarray, " N"]
    relapse: Bool[np.ndarray, " N"]
    unseen: Bool[np.ndarray, " T"]
    unseen_forget: Bool[np.ndarray, " T"]


def groups(
    status: Int[np.ndarray, " N"], change: Change, labels: Int[Any, " N"], test_labels: Int[Any, " T"]
) -> Groups:
    """The groups of one request, given the status of all rows before it.

    `relapse` are rows forgotten earlier that stay so. Unseen rows count by class: of a class with a kept row, or of one that
    was learned once and has none left.
    """
    mask = lambda rows: np.isin(np.arange(len(status)), rows)
    forget, remain, learn = (mask(getattr(change, name)) for name in ("forget", "remain", "learn"))
    labels, test_labels = np.asarray(labels), np.asarray(test_labels)
    kept = np.unique(labels[remain | learn])
    gone = np.setdiff1d(labels[(status != NEVER) & ~remain], kept)
    relapse = (status == FORGOTTEN) & ~learn
    return Groups(forget, remain, learn, relapse, np.isin(test_labels, kept), np.isin(test_labels, gone))


@jax.jit
def row_values(logits: Float[Array, "N C"], labels: Int[Array, " N"]) -> dict[str, Float[Array, " N"]]:
    """Of every row: the entropy of the prediction, and the logit of its class over the best other."""
    own = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[1], dtype=bool), -jnp.inf, logits).max(-1)
    return {"entropy": entropy(logits), "margin": own - others}


_kl = jax.jit(kl)


def measure(
    outputs: Outputs,
    group: Groups,
    labels: Int[Any, " N"],
    test_labels: Int[Any, " T"],
    reference: Outputs | None = None,
    *,
    tasks: Sequence[Sequence[int]] = (),
) -> dict[str, float]:
    """The metrics of one network after one request, those of `METRICS` that its rows allow (without seconds).

    Args:
      outputs: of the network.
      group: of the request.
      reference: of the oracle on the same rows; None where there is none, and no distance then.
      tasks: classes of each task, for the accuracy among the classes of a row's own task.

    Cost: no pass of the network; programs are compiled once for all requests of a stream.
    """
    labels, test_labels = np.asarray(labels), np.asarray(test_labels)
    found = _accuracies(outputs, group, labels, test_labels)
    values = row_values(outputs.train, labels)
    if group.unseen.any() and tasks:
        found["TA_task"] = _share(_within_task(outputs.test, test_labels, tasks) == test_labels, group.unseen)
    if group.forget.any():
        kept = (group.remain | group.learn).astype(np.float32)
        if kept.any() and group.unseen.any():
            strangers = row_values(outputs.test, test_labels)["entropy"]
            weights = (jnp.asarray(kept), jnp.asarray(group.unseen, jnp.float32))
            model = attacks.fit_logistic(values["entropy"], strangers, weights=weights)
            found["MIA"] = _share(np.asarray(model.slope * values["entropy"] + model.intercept > 0), group.forget)
        found["Margin"] = float(np.asarray(values["margin"])[group.forget].mean())
    if reference is None:
        return found
    apart = np.asarray(_kl(reference.train, outputs.train))
    sides = {"KL_forget": group.forget, "KL_kept": group.remain | group.learn, "KL_relapse": group.relapse}
    return found | {key: float(apart[rows].mean()) for key, rows in sides.items() if rows.any()}


def distances(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Mean absolute gaps to the oracle's values, over those metrics that the request has."""
    mean = lambda keys: float(np.mean([abs(values[key] - reference[key]) for key in keys if key in values]))
    return {"AvgD": mean(AVERAGED), "AvgD_MIA": mean((*AVERAGED, "MIA"))}


def class_accuracies(outputs: Outputs, test_labels: Int[Any, " T"]) -> dict[str, float]:
    """Test accuracy of every class, in per cent, as `class/<number>`."""
    right, labels = outputs.test.argmax(-1) == np.asarray(test_labels), np.asarray(test_labels)
    return {f"class/{kind}": 100.0 * float(right[labels == kind].mean()) for kind in np.unique(labels)}


def over_stream(requests: Sequence[Mapping[str, float]], kept: Sequence[Sequence[int]]) -> dict[str, float]:
    """One number for the whole stream: means over the requests after the first, and what only a stream shows.

    Args:
      requests: metrics after each request, with `class_accuracies`; the first, which all methods learn alike, is in no mean.
      kept: classes with kept rows after each request.

    Returns:
      Means by key (times too), and `Forgetting`, the mean over classes kept to the end of best earlier accuracy − last one.
    """
    carried = requests[1:]
    keys = dict.fromkeys(key for values in carried for key in values if not key.startswith("class/"))
    found = {key: float(np.mean([values[key] for values in carried if key in values])) for key in keys}
    drops = []
    for kind in kept[-1]:
        curve = [
            v[f"class/{kind}"] for v, have in zip(requests, kept, strict=True) if kind in have and f"class/{kind}" in v
        ]
        if len(curve) > 1:
            drops.append(max(curve[:-1]) - curve[-1])
    return found | ({"Forgetting": float(np.mean(drops))} if drops else {})


STREAM_METRICS = (
    *METRICS,
    beside(
        "Forgetting",
        "Forgetting",
        "%",
        "Best earlier test accuracy of a kept class less the last one, mean.",
        "utility",
        True,
    ),
)


def _accuracies(outputs, group, labels, test_labels):
    right, right_test = outputs.train.argmax(-1) == labels, outputs.test.argmax(-1) == test_labels
    sides = {"FA": group.forget, "RA": group.remain, "LA": group.learn, "Relapse": group.relapse}
    found = {key: _share(right, rows) for key, rows in sides.items() if rows.any()}
    tests = {"TA": group.unseen, "FA_test": group.unseen_forget}
    return found | {key: _share(right_test, rows) for key, rows in tests.items() if rows.any()}


def _within_task(logits, labels, tasks):
    """Predicted class among those of the row's own task."""
    task_of = {kind: i for i, kinds in enumerate(tasks) for kind in kinds}
    own = np.array([task_of.get(kind, -1) for kind in range(logits.shape[1])])
    alike = own[labels][:, None] == own[None]
    return np.where(alike, logits, -np.inf).argmax(-1)


def _share(flags, rows):
    """Per cent of the rows that are flagged."""
    return 100.0 * float(np.mean(flags[rows]))
