"""The arrays behind a run's pictures, for one request: what each network says of the rows, and the run's trajectory."""

import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clujax.geometry import entropy
from clujax.training.workdir import write_bytes
from clujax.unlearning.metrics import row_outcomes

NUM_IMAGES = 12


def write(
    path: str | os.PathLike,
    caches: Mapping[str, Mapping[str, tuple]],
    shown: Sequence[str],
    rows: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    outcome: Any,
    *,
    seed: int,
) -> None:
    """Write `evidence_<i>.npz` as `clujax.reports` reads it, whole or not at all.

    Args:
      path: the file.
      caches: method key -> predictions of its network.
      shown: keys in the order of the pictures (before, after, retrained); the scores of forgotten rows are kept of all.
      rows: the rows that were predicted, for the pictures.
      classes: names of the labels.
      outcome: of the run whose trajectory is drawn.
      seed: that all of this comes from.
    """
    scores = {key: np.asarray(entropy(jnp.asarray(cache["forget"][0]))) for key, cache in caches.items()}
    caches = {key: caches[key] for key in shown}
    models = np.array(list(caches))
    arrays = {"scores_models": np.array(list(scores)), "scores_forget": np.stack(list(scores.values()))}
    arrays |= {"classes": np.array(classes), "seed": np.array(seed)}
    arrays |= class_accuracy(models, list(caches.values()), len(classes))
    arrays |= membership(models, list(caches.values()))
    arrays |= beliefs(models, list(caches.values()), rows["forget"])
    arrays |= trajectory(outcome)
    density = {name: share for name, share in outcome.facts.get("density", {}).items() if name != "total"}
    if density:
        arrays |= {"mask_leaf": np.array(list(density)), "mask_density": np.array(list(density.values()))}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(pathlib.Path(path), buffer.getvalue())


def class_accuracy(models, caches, num_classes):
    """Accuracy by class on unseen and on forgotten rows, in per cent; NaN for a class without rows."""

    def by_class(parts):
        logits = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        right = logits.argmax(-1) == labels
        return [100 * right[labels == c].mean() if (labels == c).any() else np.nan for c in range(num_classes)]

    unseen = [[cache[name] for name in ("unseen", "unseen_forget") if name in cache] for cache in caches]
    return {
        "class_accuracy_models": models,
        "class_accuracy": np.array([by_class(parts) for parts in unseen]),
        "class_accuracy_forget": np.array([by_class([cache["forget"]]) for cache in caches]),
    }


def membership(models, caches):
    """Prediction entropy of every row under every network, and what the attack makes of it."""
    scores = {
        f"membership_{name}": np.stack([np.asarray(entropy(jnp.asarray(cache[key][0]))) for cache in caches])
        for name, key in (("forget", "forget"), ("remain", "remain"), ("test", "unseen"))
    }
    called = np.array([100 * row_outcomes(cache)["MIA"].mean() for cache in caches])
    words = {"membership_score": np.array("prediction entropy"), "membership_unit": np.array("nats")}
    return scores | words | {"membership_models": models, "membership_called_member": called}


def beliefs(models, caches, forget):
    """A sample of forgotten images with each network's probabilities: the rows whose belief changed most come first."""
    before, after = (np.asarray(jax.nn.softmax(cache["forget"][0])) for cache in (caches[0], caches[1]))
    change = np.abs(before - after).sum(-1)
    # Half the most changed, half at random, so that the picture neither hides nor overstates the effect.
    most = np.argsort(-change, kind="stable")[: NUM_IMAGES // 2]
    others = np.setdiff1d(np.random.default_rng(0).permutation(len(change)), most, assume_unique=True)
    others = np.random.default_rng(0).permutation(others)[: NUM_IMAGES - len(most)]
    chosen = np.concatenate([most, others])
    probabilities = np.stack([np.asarray(jax.nn.softmax(cache["forget"][0][chosen])) for cache in caches])
    found = {
        "images": np.asarray(forget["x"])[chosen],
        "labels": np.asarray(forget["y"])[chosen],
        "belief_models": models,
        "belief": probabilities,
    }
    return found | ({"image_index": np.asarray(forget["index"])[chosen]} if "index" in forget else {})


def trajectory(outcome):
    """Losses, norms and cosines of the gradient's parts at the probed steps."""
    records = [record for record in outcome.records if any(name.startswith("probe/") for name in record)]
    if not records:
        return {}
    names = {"forget": "forget", "remain": "remain", "salient": "saliency", "newton": "newton"}
    found = {"trajectory_step": np.array([record["step"] for record in records])}
    for key in records[0]:
        if not key.startswith("probe/"):
            continue
        kind, _, which = key.removeprefix("probe/").partition("/")
        if which:
            which = "_".join(names[part] for part in which.split("·"))
        found["_".join(filter(None, ["trajectory", kind, which]))] = np.array([record[key] for record in records])
    sizes = [record.get("forget/effective_sample_size", np.nan) for record in records]
    return found | ({"trajectory_effective_sample_size": np.array(sizes)} if np.isfinite(sizes).any() else {})
