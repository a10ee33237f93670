"""The evaluation table: metrics of one cached pass of logits, each with its direction and ideal."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from clujax.data import padded
from clujax.errors import RequestError
from clujax.geometry import js, kl
from clujax.models import Classifier
from clujax.unlearning.attacks import entropy_attack


class Metric(NamedTuple):
    """What a number means: its key, label, unit, which way is better, its ideal, and one sentence."""

    key: str
    label: str
    unit: str
    direction: str
    ideal: str | float
    explain: str


METRICS = (
    Metric("FA", "Forget accuracy", "%", "closer to retrain", "retrain", "Accuracy on the rows to forget."),
    Metric("RA", "Remain accuracy", "%", "closer to retrain", "retrain", "Accuracy on the remaining training rows."),
    Metric("TA", "Test accuracy", "%", "closer to retrain", "retrain", "Accuracy on unseen rows of the kept classes."),
    Metric(
        "MIA",
        "Membership",
        "%",
        "closer to retrain",
        "retrain",
        "Forgotten rows that a logistic attack on prediction entropy still calls members.",
    ),
    Metric("FA_test", "Forget test acc.", "%", "closer to retrain", "retrain", "Unseen rows of the forgotten classes."),
    Metric("KL", "KL to retrain", "nat", "lower", 0.0, "Mean KL(retrained ‖ unlearned) over the forgotten rows."),
    Metric("JS", "JS to retrain", "nat", "lower", 0.0, "Mean Jensen–Shannon divergence over the forgotten rows."),
    Metric("AvgD", "Avg. D", "%", "lower", 0.0, "Mean absolute distance of FA, RA, TA and MIA to the retrained ones."),
    Metric("seconds", "Run time", "s", "lower", 0.0, "Preparing and running, without compiling."),
)

AVERAGED = ("FA", "RA", "TA", "MIA")


@partial(jax.jit, static_argnums=0)
def _logits(apply, params, stats, inputs):
    return apply(params, stats, inputs, train=False)[0]


def predict(classifier: Classifier, params: PyTree, stats: PyTree, inputs: Any, batch_size: int = 500) -> np.ndarray:
    """Eval-mode logits `[N, C]` in one pass of fixed-size batches (one compilation, whatever N is)."""
    parts = []
    for batch in padded({"x": inputs}, min(batch_size, max(len(inputs), 1))):
        kept = np.asarray(batch["weight"]) > 0
        parts.append(np.asarray(_logits(classifier.apply, params, stats, batch["x"]))[kept])
    return np.concatenate(parts)


def predictions(
    classifier: Classifier, params: PyTree, stats: PyTree, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of one network on each named set of rows: everything the metrics read.

    Args:
      rows: `{"forget": {"x", "y"}, "remain": ..., "unseen": ..., "unseen_forget": ...}`. `unseen` are test rows of the
        kept classes; `unseen_forget` those of classes forgotten as a whole, possibly absent or empty.
    """
    return {
        name: (predict(classifier, params, stats, part["x"]), np.asarray(part["y"]))
        for name, part in rows.items()
        if len(part["y"])
    }


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Per cent of rows whose largest logit is the label's."""
    return 100.0 * float(np.mean(np.argmax(logits, -1) == labels))


def evaluate(cache: Mapping[str, tuple], reference: Mapping[str, tuple] | None = None) -> dict[str, float]:
    """The metrics of one network; those that compare with retraining need the retrained network's cache.

    Args:
      cache: `predictions(...)` of the network.
      reference: `predictions(...)` of the retrained one on the same rows, or None.

    Returns:
      `{key: value}` for the keys of `METRICS` (without seconds).
    """
    forget, remain, unseen = (jnp.asarray(cache[name][0]) for name in ("forget", "remain", "unseen"))
    labels = cache["forget"][1]
    values = {
        "FA": accuracy(cache["forget"][0], labels),
        "RA": accuracy(*cache["remain"]),
        "TA": accuracy(*cache["unseen"]),
        "MIA": float(entropy_attack(remain, unseen, forget)),
    }
    if "unseen_forget" in cache:
        values["FA_test"] = accuracy(*cache["unseen_forget"])
    if reference is not None:
        if reference["forget"][0].shape != forget.shape or not np.array_equal(reference["forget"][1], labels):
            raise RequestError(
                f"reference has forget rows of shape {reference['forget'][0].shape}, this network"
                f" {forget.shape}: both must be evaluated on the same split."
            )
        retrained = jnp.asarray(reference["forget"][0])
        values["KL"] = float(jnp.mean(kl(retrained, forget)))
        values["JS"] = float(jnp.mean(js(retrained, forget)))
    return values


def gaps(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Signed distances to the retrained network's values, and their mean size over FA, RA, TA, MIA as `AvgD`."""
    gap = {key: values[key] - reference[key] for key in values if key in reference}
    gap["AvgD"] = float(np.mean([abs(gap[key]) for key in AVERAGED]))
    return gap
