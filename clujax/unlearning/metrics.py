"""The evaluation table: metrics of one cached pass of logits, each with its direction, its ideal and what it means."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from clujax import attacks
from clujax.adaptation.metric import Metric, beside
from clujax.data import on_disk
from clujax.errors import RequestError
from clujax.geometry import entropy, js, kl
from clujax.unlearning import distances

METRICS = (
    beside("FA", "Forget accuracy", "%", "Accuracy on the rows to forget.", "utility", True),
    beside("RA", "Remain accuracy", "%", "Accuracy on the remaining training rows.", "utility", True),
    beside("TA", "Test accuracy", "%", "Accuracy on unseen rows of the kept classes.", "utility", True),
    beside("FA_test", "Forget test acc.", "%", "Accuracy on unseen rows of the forgotten classes.", "utility", True),
    beside(
        "MIA",
        "Membership",
        "%",
        "Forgotten rows that a logistic attack on prediction entropy still calls members.",
        "privacy",
        True,
    ),
    beside(
        "SVC",
        "SVC efficacy",
        "%",
        "Forgotten rows that a support-vector attack on the true class's probability calls non-members.",
        "privacy",
        True,
    ),
    beside("SVC_correct", "SVC, correctness", "%", "The same attack on whether the prediction is right.", "privacy"),
    beside("SVC_entropy", "SVC, entropy", "%", "The same attack on prediction entropy.", "privacy"),
    beside("SVC_m", "SVC, M-entropy", "%", "The same attack on modified entropy, which knows the label.", "privacy"),
    beside(
        "Threshold",
        "Threshold",
        "%",
        "Forgotten rows that thresholds on modified entropy, one a class, call members.",
        "privacy",
    ),
    beside(
        "LossCV",
        "Loss attack",
        "%",
        "Held-out accuracy of a logistic attack that tells forgotten from unseen rows by their loss; 50 is chance.",
        "privacy",
    ),
    beside(
        "AUC",
        "Loss AUC",
        "",
        "Chance that a forgotten row has a smaller loss than an unseen one: above a half it still looks like a member,"
        " below it looks stranger than a row never seen.",
        "privacy",
        True,
    ),
    beside("PrivLeak", "PrivLeak", "%", "Relative distance of 1 − AUC to the retrained network's.", "privacy"),
    Metric(
        "KL", "KL to retrain", "nat", "lower", 0.0, "Mean KL(retrained ‖ unlearned), forgotten rows.", "output", True
    ),
    Metric("JS", "JS to retrain", "nat", "lower", 0.0, "Mean Jensen–Shannon divergence, forgotten rows.", "output"),
    Metric(
        "Act",
        "Activation distance",
        "",
        "lower",
        0.0,
        "Mean distance of the probabilities to the retrained network's, forgotten rows.",
        "output",
    ),
    Metric(
        "Agree",
        "Agreement",
        "%",
        "higher",
        100.0,
        "Forgotten rows that both this and the retrained network put into the same class.",
        "output",
    ),
    beside("ZRF", "ZRF", "", "1 − Jensen–Shannon divergence to an untrained network, forgotten rows.", "output"),
    beside("Confused", "Confusion", "%", "Unseen rows of the two confused classes put into the other one.", "utility"),
    beside("Trigger", "Trigger success", "%", "Unseen rows with the trigger that are put into its class.", "utility"),
    beside(
        "Relearn",
        "Relearn time",
        "steps",
        "Steps of finetuning on the forgotten rows until their loss is the original network's again.",
        "privacy",
    ),
    Metric("ToW", "Tug of war", "", "higher", 1.0, "Product of 1 − |gap| over FA, RA and TA.", "summary"),
    Metric("ToW_MIA", "Tug of war, MIA", "", "higher", 1.0, "Product of 1 − |gap| over MIA, RA and TA.", "summary"),
    Metric("AvgD", "Avg. D", "%", "lower", 0.0, "Mean absolute gap of FA, RA, TA and MIA.", "summary", True),
    Metric("AvgGap", "Avg. gap, SVC", "%", "lower", 0.0, "Mean absolute gap of FA, RA, TA and SVC.", "summary"),
    Metric("Moved", "Distance moved", "", "lower", 0.0, "‖θ − θ_original‖ / ‖θ_original‖.", "cost"),
    Metric("seconds", "Run time", "s", "lower", 0.0, "Preparing and running, without compiling.", "cost", True),
)

AVERAGED = ("FA", "RA", "TA", "MIA")


def row_outcomes(cache: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    """Whether each row is right, or is called a member: the averaged metrics before their mean, for intervals and audits.

    Returns:
      `{"FA": bool [n_f], "RA": bool [n_r], "TA": bool [n_u], "MIA": bool [n_f], "FA_test": ...}`.
    """
    sides = {"FA": "forget", "RA": "remain", "TA": "unseen", "FA_test": "unseen_forget"}
    found = {key: cache[side][0].argmax(-1) == cache[side][1] for key, side in sides.items() if side in cache}
    remain, unseen, forget = (entropy(jnp.asarray(cache[side][0])) for side in ("remain", "unseen", "forget"))
    model = attacks.fit_logistic(remain, unseen)
    return found | {"MIA": np.asarray(model.slope * forget + model.intercept > 0)}


def evaluate(
    cache: Mapping[str, tuple],
    reference: Mapping[str, tuple] | None = None,
    *,
    untrained: Mapping[str, tuple] | None = None,
    facts: Mapping[str, Any] | None = None,
    key: PRNGKeyArray | None = None,
) -> dict[str, float]:
    """The metrics of one network; those that compare with retraining need the retrained network's cache.

    Args:
      cache: `predictions(...)` of the network.
      reference: `predictions(...)` of the retrained one on the same rows, or None.
      untrained: `predictions(...)` of a freshly initialised network, for ZRF.
      facts: of the request: `{"confused": (a, b)}` adds the confusion of those classes, `{"target": c}` the success of
        triggered rows (`cache["triggered"]`).
      key: of the subsampling and splits inside attacks; one key for all networks pairs their numbers.

    Returns:
      `{key: value}` for those of `METRICS` that the arguments allow (without seconds).

    Raises:
      RequestError: rows that every table needs are missing, or the reference is of other rows.
    """
    check_cache(cache, reference)
    facts = facts or {}
    values = {name: 100.0 * float(np.mean(outcomes)) for name, outcomes in row_outcomes(cache).items()}
    values |= attack_values(cache, jax.random.key(0) if key is None else key)
    forget = jnp.asarray(cache["forget"][0])
    if untrained is not None:
        values["ZRF"] = float(distances.zrf(forget, jnp.asarray(untrained["forget"][0])))
    if "confused" in facts:
        found = distances.class_confusion(*map(jnp.asarray, cache["unseen"]), facts["confused"])
        values["Confused"] = 100 * float(found["error"])
    if "target" in facts and "triggered" in cache:
        values["Trigger"] = 100.0 * float(np.mean(cache["triggered"][0].argmax(-1) == facts["target"]))
    if reference is not None:
        retrained = jnp.asarray(reference["forget"][0])
        values["KL"] = float(jnp.mean(kl(retrained, forget)))
        values["JS"] = float(jnp.mean(js(retrained, forget)))
        values["Act"] = float(distances.activation_distance(forget, retrained))
        values["Agree"] = 100 * float(distances.agreement(forget, retrained))
    return values


def attack_values(cache: Mapping[str, tuple], key: PRNGKeyArray) -> dict[str, float]:
    """The population attacks on the forget rows, remaining rows as members and unseen rows as strangers."""
    sides = {name: tuple(map(jnp.asarray, cache[name])) for name in ("remain", "unseen", "forget")}
    subset_key, split_key = jax.random.split(key)
    scores = {
        "SVC": attacks.confidence,
        "SVC_correct": attacks.correctness,
        "SVC_entropy": lambda logits, labels: entropy(logits),
        "SVC_m": attacks.m_entropy,
    }
    found = {}
    for name, score in scores.items():
        found[name] = attacks.svc_attack(*(score(*sides[side]) for side in sides), subset_key)
    known = {name: (-attacks.m_entropy(*side), side[1]) for name, side in sides.items()}
    cuts = attacks.fit_thresholds(*known["remain"], *known["unseen"])
    found["Threshold"] = attacks.called_members(cuts, *known["forget"])
    # Losses are compared among rows of the same classes: a class that was forgotten whole has its own strangers.
    strangers = cache["unseen_forget" if "unseen_forget" in cache else "unseen"]
    forgotten, unseen = (attacks.cross_entropy(*map(jnp.asarray, side)) for side in (cache["forget"], strangers))
    if min(len(forgotten), len(unseen)) > 1:  # one row cannot be both fitted and held out
        found["LossCV"] = float(attacks.loss_attack(forgotten, unseen, split_key))
    found["AUC"] = float(attacks.loss_auc(forgotten, unseen))
    return found


def gaps(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Signed distances to the retrained network's values; `AvgD` is their mean size over FA, RA, TA and MIA."""
    beside = {metric.key for metric in METRICS if metric.ideal == "retrain"}
    gap = {key: values[key] - reference[key] for key in values if key in reference and key in beside}
    return gap | {"AvgD": float(np.mean([abs(gap[key]) for key in AVERAGED]))}


def summary(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """One number for the distance to the retrained network, in the forms that papers use; and PrivLeak.

    PrivLeak = 100 · ((1 − AUC) − (1 − AUC_retrained)) / (1 − AUC_retrained): above 0 the forgotten rows look stranger than
    rows never seen, below 0 they still look like members.
    """
    mean = lambda keys: float(np.mean([abs(values[key] - reference[key]) for key in keys]))
    found = {
        "AvgD": mean(AVERAGED),
        "ToW": distances.tug_of_war(values, reference),
        "ToW_MIA": distances.tug_of_war(values, reference, "MIA"),
    }
    if "SVC" in values and "SVC" in reference:
        found["AvgGap"] = mean((*AVERAGED[:3], "SVC"))
    if "AUC" in values and "AUC" in reference and reference["AUC"] < 1:
        found["PrivLeak"] = float(attacks.priv_leak(values["AUC"], reference["AUC"]))
    return found


def check_unseen(rows: Mapping[str, Mapping[str, Any]], most: float = 0.1) -> None:
    """Refuse unseen rows that are training rows: every attack would take members for strangers.

    Raises:
      RequestError: more than a share `most` of the unseen inputs are equal, byte for byte, to a forget or remaining one.
        Fewer are a warning from 1 % on: real sets repeat some pictures. Of rows on disk the middle lines are compared.
    """
    middle = any(on_disk(part["x"]) for part in rows.values())
    content = lambda part: _contents(part["x"], middle)
    trained = {row for side in ("forget", "remain") if side in rows for row in content(rows[side])}
    for side in ("unseen", "unseen_forget"):
        if side not in rows or not len(rows[side]["y"]):
            continue
        known = sum(row in trained for row in content(rows[side]))
        if known > most * len(rows[side]["y"]):
            raise RequestError(
                f"{known} of {len(rows[side]['y'])} rows of {side} are training rows too; give rows that no network saw."
            )
        if known > 0.01 * len(rows[side]["y"]):
            warnings.warn(
                f"{known} of {len(rows[side]['y'])} rows of {side} repeat a training row, which attacks then take for new.",
                stacklevel=2,
            )


def _contents(x: Any, middle: bool) -> list[bytes]:
    """The bytes of each row, or of its middle line alone."""
    if not middle:
        return [np.ascontiguousarray(row).tobytes() for row in np.asarray(x)]
    line = x.shape[1] // 2
    blocks = (np.asarray(x[start : start + 1024, line]) for start in range(0, len(x), 1024))
    return [np.ascontiguousarray(row).tobytes() for block in blocks for row in block]


def check_cache(cache: Mapping[str, tuple], reference: Mapping[str, tuple] | None = None) -> None:
    """Refuse what cannot be evaluated.

    Raises:
      RequestError: rows that every table needs are missing, logits are not finite, or the reference is of other rows.
    """
    for side in ("forget", "remain", "unseen"):
        if side not in cache or not len(cache[side][1]):
            raise RequestError(f"{side} has no rows; the table needs forget, remain and unseen rows.")
    for side, (logits, labels) in cache.items():
        if not np.isfinite(logits).all():
            raise RequestError(f"the logits of {side} have NaN or Inf; evaluate a finite network.")
        if reference is None or side not in ("forget", "remain", "unseen"):
            continue
        if side not in reference or not np.array_equal(reference[side][1], labels):
            shape = reference[side][0].shape if side in reference else "nothing"
            raise RequestError(
                f"reference has {side} rows of shape {shape}, this network {np.shape(logits)}, or other labels: both must"
                " be evaluated on the same split."
            )
