"""Result files as a run over a stream of requests would leave them, invented; only their shape matters to the tests."""

import numpy as np
from sample import write_run

CATEGORY = ("L1", "L2", "L3+U{0,2}", "L4", "L5+U{5,7}")
SHORT = ("L1", "L2")
LONG = ("L1", "L2", "U{0}", "L3", "L4+U10%", "U1", "L5+U{4,5}", "U20%", "U2", "U{6,8}", "U5%", "U{7}")

# key, label, points of kept accuracy lost a request, points of forgotten rows still known, came back a request, KL, seconds
RIVALS = [
    ("oracle", "Oracle", 0.0, 0.0, 0.0, 0.0, 34.5),
    ("oracle_again", "Oracle again", 0.1, 0.3, 0.1, 0.05, 34.1),
    ("finetune", "Finetune", 30.0, -30.0, 0.0, 4.1, 0.8),
    ("replay", "ER", 1.6, 9.0, 2.2, 0.6, 2.1),
    ("der", "DER", 1.3, 12.0, 3.5, 0.5, 2.4),
    ("der_plus", "DER++", 1.2, 13.0, 3.1, 0.48, 2.9),
    ("ewc", "EWC", 19.0, -18.0, 0.0, 3.4, 1.4),
    ("online_ewc", "Online EWC", 20.0, -19.0, 0.0, 3.5, 1.3),
    ("lwf", "LwF", 9.0, 25.0, 4.0, 1.4, 1.2),
    ("joint", "Joint, adaptive", 4.0, 4.0, 1.1, 0.7, 2.6),
    ("joint_ascent", "Joint, ascent", 17.0, -40.0, -1.0, 21.0, 2.5),
    ("joint_relabel", "Joint, random label", 2.4, -6.0, 0.4, 0.8, 2.7),
    ("clpu", "CLPU-DER++", 2.0, 0.5, 0.0, 0.4, 5.5),
    ("distill", "Two teachers", 2.8, 3.0, 1.0, 0.6, 3.9),
    ("er_sfron", "ER, then SFR-on", 1.9, 2.0, 0.6, 0.31, 3.0),
    ("er_ascent", "ER, then ascent", 7.0, -35.0, 0.2, 9.0, 2.3),
    ("er_relabel", "ER, then random label", 2.2, -4.0, 0.3, 0.7, 2.9),
    ("er_salun", "ER, then SalUn", 2.1, -3.0, 0.3, 0.65, 3.2),
    ("er_scrub", "ER, then SCRUB", 2.0, 4.0, 0.9, 0.5, 3.4),
    ("ug_clu", "UG-CLU", 0.7, 1.1, 0.2, 0.14, 1.2),
]
FEW = [row for row in RIVALS if row[0] in ("oracle", "replay", "ug_clu")]

_METRICS = [
    ("FA", "Forget accuracy", "%", "Accuracy on the rows that the request forgets.", "utility", True),
    ("RA", "Remain accuracy", "%", "Accuracy on training rows learned before that stay.", "utility", True),
    ("LA", "Learn accuracy", "%", "Accuracy on the rows that the request learns.", "utility", True),
    ("TA", "Test accuracy", "%", "Accuracy on unseen rows of the classes that are kept.", "utility", True),
    ("MIA", "Membership", "%", "Forgotten rows that an attack on entropy calls members.", "privacy", True),
    ("Margin", "Margin", "", "Mean logit of the true class over the best other, forgotten rows.", "privacy", False),
    ("Relapse", "Relapse", "%", "Accuracy on rows that earlier requests forgot.", "privacy", True),
    ("KL_forget", "KL, forgotten", "nat", "Mean KL(oracle ‖ network), forgotten rows.", "output", True),
    ("KL_kept", "KL, kept", "nat", "Mean KL(oracle ‖ network), rows that are kept or learned.", "output", True),
    ("AvgD", "Avg. D", "%", "Mean absolute gap of FA, RA, LA and TA.", "summary", True),
    ("seconds", "Time a request", "s", "Preparing and running, without compiling.", "cost", True),
    (
        "Forgetting",
        "Forgetting",
        "%",
        "Best earlier test accuracy of a kept class less the last, mean.",
        "utility",
        True,
    ),
]
_OWN = ("KL_forget", "KL_kept", "AvgD", "seconds")  # distances by themselves; 0 is ideal
_FIELDS = ("key", "label", "unit", "explain", "group", "headline")
METRICS = [
    dict(zip(_FIELDS, row))
    | (
        {"direction": "lower", "ideal": 0.0}
        if row[0] in _OWN
        else {"direction": "closer to retrain", "ideal": "retrain"}
    )
    for row in _METRICS
]


def run(words=CATEGORY, rivals=RIVALS, seeds=(0, 1, 2), label="Categories across tasks"):
    """A result of one stream and its evidence."""
    curves = _curves(words, rivals)
    keys = [row[0] for row in rivals]
    spread = {
        name: 0.1 * np.abs(values) ** 0.5 * (np.arange(len(words)) > 0) * (len(seeds) > 1)
        for name, values in curves.items()
    }
    means = [{name: _mean(curves[name][i]) for name in curves} for i in range(len(keys))]
    means = [{k: v for k, v in each.items() if v is not None and not k.startswith("class/")} for each in means]
    for row, each in zip(rivals, means):
        each["Forgetting"] = 1.5 + 2 * row[2]
    oracle = means[keys.index("oracle")]
    gap = lambda each: {k: abs(v - (0.0 if k in _OWN else oracle[k])) for k, v in each.items() if k != "seconds"}
    methods = [_entry(row, each, gap(each), oracle, len(seeds)) for row, each in zip(rivals, means)]
    again = next((each["gap"] for each in methods if each["key"] == "oracle_again"), None)
    request = {
        "name": "category",
        "label": label,
        "scenario": "task-agnostic",
        "num_learn": 5000,
        "num_forget": 1000,
        "num_test": 2000,
        "metrics": METRICS,
        "methods": methods,
        "reference": "oracle",
        "focus": "ug_clu",
        "noise_floor": again,
        "stream": [{"word": w, "learn": 1000 * ("L" in w), "forget": 500 * ("U" in w)} for w in words],
    }
    result = {
        "title": "Learn and forget on request: Fashion-MNIST",
        "command": "clujax run configs/continual/streams.py --workdir runs/streams",
        "created": "2026-11-24T11:00:00+00:00",
        "seeds": list(seeds),
        "wall_seconds": 900.0,
        "requests": [request],
    }
    arrays = {"stream_models": np.array(keys), "stream_requests": np.array(words)}
    for name, values in curves.items():
        arrays |= {f"stream_{name}": values, f"stream_{name}_std": spread[name]}
    return result, arrays


def write(path, **kwargs):
    """The files of such a run."""
    result, arrays = run(**kwargs)
    return write_run(path, result, [arrays])


def _mean(values):
    known = values[1:][np.isfinite(values[1:])]
    return float(known.mean()) if len(known) else None


def _entry(row, values, gap, oracle, seeds):
    lost = oracle["TA"] - values["TA"]
    collapsed = row[0] != "oracle" and lost > oracle["TA"] / 3
    return {
        "key": row[0],
        "label": row[1],
        "values": values,
        "std": {key: 0.1 * abs(value) ** 0.5 for key, value in values.items()} if seeds > 1 else None,
        "gap": None if row[0] == "oracle" else gap,
        "per_seed": [values] * seeds,
        "run_seconds": values["seconds"],
        "settings": {"learning_rate": 0.02, "steps": 300},
        "collapsed": collapsed,
        "warnings": [f"Collapsed: test accuracy is {lost:.1f} points below the oracle's."] if collapsed else [],
    }


def _curves(words, rivals):
    """Metric -> [M, Q], all methods alike after the first request."""
    rng = np.random.default_rng(3)
    count, when = len(words), np.arange(len(words))
    learns = np.array(["L" in word for word in words])
    forgets = np.array(["U" in word for word in words])
    earlier = np.concatenate([[False], np.cumsum(forgets)[:-1] > 0])
    whole = np.array(["%" not in word for word in words])
    ideal = {
        "FA": np.where(forgets, np.where(whole, 0.0, 84.0), np.nan),
        "RA": np.where(when > 0, 98.6 - 0.4 * when, np.nan),
        "LA": np.where(learns, 98.9, np.nan),
        "Relapse": np.where(earlier, 8.0 + 2.0 * np.sin(when), np.nan),
        "TA": 96.0 - 9.0 * when / max(count, 5),
        "MIA": np.where(forgets, 52.0, np.nan),
        "Margin": np.where(forgets, -3.0, np.nan),
    }
    curves = {name: [] for name in (*ideal, "KL_forget", "KL_kept", "AvgD", "seconds")}
    for key, _, lost, known, back, kl, seconds in rivals:
        jolt = (rng.normal(0, 0.25, count) if key != "oracle" else 0.0) * (when > 0)
        shifts = {
            "FA": known * (1 + 0.2 * jolt),
            "RA": -lost * when ** (0.5 if lost > 10 else 0.9) + jolt,
            "LA": -0.3 * lost + jolt,
            "Relapse": back * when,
            "TA": -0.8 * lost * when ** (0.5 if lost > 10 else 0.9) + jolt,
            "MIA": 0.8 * known,
            "Margin": 0.1 * known,
        }
        values = {name: ideal[name] + np.where(when > 0, shifts[name], 0.0) for name in ideal}
        values |= {name: np.clip(values[name], 0.0, 100.0) for name in ideal if name != "Margin"}
        gaps = np.array([np.abs(values[name] - ideal[name]) for name in ("FA", "RA", "LA", "TA")])
        size = kl * np.exp(2 * jolt) * (when > 0)
        values |= {
            "KL_forget": np.where(forgets, size, np.nan),
            "KL_kept": 0.3 * size * (1 + 0.1 * when),
            "AvgD": np.nanmean(gaps, axis=0),
            "seconds": seconds * (1 + 0.15 * when * (key.startswith("oracle"))) * np.exp(0.4 * jolt) * (when > 0),
        }
        for name, each in values.items():
            curves[name].append(each)
    curves = {name: np.array(each, float) for name, each in curves.items()}
    return curves | _classes(words, rivals, rng)


def _classes(words, rivals, rng):
    """Test accuracy of ten classes, two a task."""
    found = {}
    for kind in range(10):
        status, level = False, 78 + 20 * rng.random()
        found[f"class/{kind}"] = np.zeros((len(rivals), len(words)))
        for q, word in enumerate(words):
            for part in word.split("+"):
                if part in (f"L{kind // 2 + 1}", f"U{kind // 2 + 1}"):
                    status = part[0] == "L"
                elif part.startswith("U{") and str(kind) in part[2:-1].split(","):
                    status = False
            for m, row in enumerate(rivals):
                value = (
                    level - row[2] * q + rng.normal(0, 1)
                    if status
                    else 2.0 * max(row[4], 0) * q * (1 + 5 * (kind == 0))
                )
                found[f"class/{kind}"][m, q] = np.clip(value, 0, 100)
    return found
