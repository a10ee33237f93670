"""Where unlearning has a known answer: a linear model on random features, every relabelling method, every attack.

Command: python experiments/unlearning_exactness.py
Time:    about two minutes on two CPU cores
Writes:  docs/results/unlearning_exactness.md
Data:    scikit-learn's digits, which pip brings
"""

import argparse
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from clujax import attacks, data
from clujax.geometry import featurize, fourier_features, median_distance
from clujax.training.workdir import environment
from clujax.unlearning import random_features
from clujax.unlearning.metrics import METRICS, evaluate, summary

REMAIN, FORGET, PAIRS = 600, 100, 2000
# Of the problem that many models are fitted to.
MODELS, BASE, POOL, FEW = 64, 300, 60, 500
# A regression onto 0 and 1 is no log-odds; this scale makes its softmax about as sure as its accuracy.
SCALE = 10.0
DIRECTORY = pathlib.Path("docs/results")


def problem(seed: int, num_remain: int = REMAIN, num_forget: int = FORGET, pairs: int = PAIRS) -> dict:
    """Features, one-hot targets and starting weights of one seed, in double precision."""
    digits = data.load("digits")
    x = np.concatenate([digits.train["x"], digits.test["x"]]).reshape(-1, 64).astype(np.float64)
    y = np.concatenate([digits.train["y"], digits.test["y"]])
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = x[order], y[order]
    draw, pair, start = jax.random.split(jax.random.key(seed), 3)
    inputs = jnp.asarray(x)
    # A third and a half of the median distance: accurate, and conditioned well enough for SGD to end.
    phi = featurize(fourier_features(draw, 64, pairs, float(median_distance(inputs, pair)) / 3.5), inputs)
    end = num_remain + num_forget
    sides = {"remain": slice(num_remain), "forget": slice(num_remain, end), "unseen": slice(end, None)}
    return {
        "phi": {name: phi[rows] for name, rows in sides.items()},
        "labels": {name: y[rows].astype(np.int32) for name, rows in sides.items()},
        "targets": jax.nn.one_hot(y, 10, dtype=jnp.float64),
        "start": 0.1 * jax.random.normal(start, (phi.shape[1], 10), jnp.float64),
        "key": jax.random.fold_in(jax.random.key(seed), 1),
    }


def finetuned(trained, phi, targets):
    """Where SGD on these rows ends from trained weights."""
    return random_features.sgd_limit(phi, targets, trained)


def networks(p: dict) -> dict:
    """Weights after every way to delete the forget rows, and the retrained ones."""
    remain, forget = p["phi"]["remain"], p["phi"]["forget"]
    y_remain, y_forget = p["targets"][:REMAIN], p["targets"][REMAIN : REMAIN + FORGET]
    both = jnp.concatenate([remain, forget])
    limit = random_features.sgd_limit
    trained = limit(both, jnp.concatenate([y_remain, y_forget]), p["start"])
    labels, teacher, any_label = jax.random.split(p["key"], 3)
    shift = jax.random.randint(labels, (FORGET,), 1, 10)
    wrong = jax.nn.one_hot((p["labels"]["forget"] + shift) % 10, 10, dtype=jnp.float64)
    any_class = jax.nn.one_hot(jax.random.randint(any_label, (FORGET,), 0, 10), 10, dtype=jnp.float64)
    bad = forget @ (0.1 * jax.random.normal(teacher, p["start"].shape, jnp.float64))
    exact = random_features.exact_relabel(forget, remain, y_remain, p["start"])
    after = lambda targets: finetuned(trained, both, jnp.concatenate([y_remain, targets]))
    half = FORGET // 2
    first = random_features.delete_rows(
        forget[:half],
        jnp.concatenate([remain, forget[half:]]),
        jnp.concatenate([y_remain, y_forget[half:]]),
        trained,
        p["start"],
    )
    descent = jax.jit(partial(random_features.cyclic_sgd, tolerance=1e-6, max_epochs=4000))
    begin = time.perf_counter()
    walked = descent(both, jnp.concatenate([y_remain, exact]), trained)
    jax.block_until_ready(walked)
    print(
        f"SGD: {int(walked.epochs)} passes, residual {float(walked.residual):.1e}, {time.perf_counter() - begin:.0f} s"
    )
    return {
        "Retrain": limit(remain, y_remain, p["start"]),
        "Original": trained,
        "MUSO, closed form": random_features.delete_rows(forget, remain, y_remain, trained, p["start"]),
        "MUSO, two deletions": random_features.delete_rows(forget[half:], remain, y_remain, first, p["start"]),
        "MUSO, SGD to 1e-6": walked.weights,
        "Random label, wrong": after(wrong),
        "Random label, any": after(any_class),
        "Bad teacher": after(bad),
        "Finetune": finetuned(trained, remain, y_remain),
    }


def table(p: dict) -> dict[str, dict]:
    """Relative distance to the retrained weights, and every metric, of every network."""
    with jax.enable_x64(True):
        weights = networks(p)
        truth = weights["Retrain"]
        distance = {name: float(jnp.linalg.norm(w - truth) / jnp.linalg.norm(truth)) for name, w in weights.items()}
        caches = {
            name: {side: (np.asarray(SCALE * phi @ w, np.float32), p["labels"][side]) for side, phi in p["phi"].items()}
            for name, w in weights.items()
        }
    found, retrained = {}, evaluate(caches["Retrain"])
    for name, cache in caches.items():
        values = evaluate(cache, None if name == "Retrain" else caches["Retrain"])
        found[name] = values | summary(values, retrained) | {"distance": distance[name]}
    return found


def audit(p: dict, key) -> dict[str, dict]:
    """Attacks by many models: half of a pool learnt, then unlearned, half never seen; and M unlearnings beside M retrainings.

    All models share the remaining rows and each has starting weights of its own.
    """
    remain, pool = p["phi"]["remain"], p["phi"]["forget"]
    y_remain, y_pool = p["targets"][:BASE], p["targets"][BASE : BASE + POOL]
    labels = jnp.asarray(p["labels"]["forget"])
    limit = random_features.sgd_limit

    def one(arrays, key, learnt):
        remain, pool, y_remain, y_pool = arrays
        start_key, other_key, label_key = jax.random.split(key, 3)
        start, other = (0.1 * jax.random.normal(k, p["start"].shape, jnp.float64) for k in (start_key, other_key))
        rows, targets = pool[learnt], y_pool[learnt]
        both = jnp.concatenate([remain, rows])
        trained = limit(both, jnp.concatenate([y_remain, targets]), start)
        exact = random_features.exact_relabel(rows, remain, y_remain, start)
        shift = jax.random.randint(label_key, learnt.shape, 1, 10)
        wrong = jax.nn.one_hot((labels[learnt] + shift) % 10, 10, dtype=jnp.float64)
        after = lambda t: limit(both, jnp.concatenate([y_remain, t]), trained)
        outputs = {"MUSO": after(exact), "Random label, wrong": after(wrong), "Bad teacher": after(rows @ other)}
        outputs |= {"Original": trained, "Retrain": limit(remain, y_remain, start)}
        return {name: SCALE * pool @ w for name, w in outputs.items()}

    half = POOL // 2
    keys = jax.random.split(key, MODELS + 1)
    chosen = np.stack([np.asarray(jax.random.permutation(k, POOL))[:half] for k in jax.random.split(keys[0], MODELS)])
    assigned = np.zeros((MODELS, POOL), bool)
    np.put_along_axis(assigned, chosen, True, 1)
    whole = np.tile(np.arange(POOL), (MODELS, 1))
    with jax.enable_x64(True):
        arrays = remain, pool, y_remain, y_pool
        each = jax.jit(lambda arrays, keys, rows: jax.lax.map(lambda item: one(arrays, *item), (keys, rows)))
        run = partial(each, arrays)
        logits = run(keys[1:], chosen)
        unlearned = run(jax.random.split(jax.random.fold_in(key, 1), MODELS), whole)
        retrained = run(jax.random.split(jax.random.fold_in(key, 2), MODELS), whole)["Retrain"]
        logits, unlearned, retrained = jax.tree.map(
            partial(np.asarray, dtype=np.float32), (logits, unlearned, retrained)
        )
    score = lambda z: attacks.scaled_confidence(jnp.asarray(z), jnp.broadcast_to(labels, z.shape[:-1]))
    null = attacks.null_score(jax.random.key(0), MODELS)
    found = {}
    for name, z in logits.items():
        lira = attacks.u_lira(score(z), assigned)
        epsilon = attacks.forget_epsilon(score(unlearned[name]), score(retrained))
        found[name] = {
            "U-LiRA AUC": float(lira.auc),
            "U-LiRA TPR at 1 % FPR": 100 * float(lira.tpr_at_fpr_01),
            "ε": float(epsilon.mean()),
            "score / null": float(attacks.forget_score(epsilon, MODELS) / null.score),
        }
    return found


def render(tables: list[dict], audits: list[dict]) -> str:
    """Both tables as Markdown, means over seeds."""
    keys = [m.key for m in METRICS if m.key in tables[0]["Original"] and m.key not in ("Moved", "seconds", "PrivLeak")]
    mean = lambda rows, name, key: np.mean([row[name][key] for row in rows])
    lines = ["| network | ‖W − W_r‖/‖W_r‖ | " + " | ".join(keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for name in tables[0]:
        cells = [f"{max(row[name]['distance'] for row in tables):.1e}"]
        cells += [f"{mean(tables, name, key):.4g}" if key in tables[0][name] else "–" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    measures = list(next(iter(audits[0].values())))
    lines += [
        "",
        f"{MODELS} models of each kind, on {BASE} remaining rows, a pool of {POOL} and {2 * FEW} features:",
        "",
        "| network | " + " | ".join(measures) + " |",
    ]
    lines.append("|---" * (len(measures) + 1) + "|")
    for name in audits[0]:
        cells = [f"{mean(audits, name, key):.3g}" for key in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    begin = time.perf_counter()
    with jax.enable_x64(True):
        problems = [problem(seed) for seed in range(options.seeds)]
        smaller = [problem(seed, BASE, POOL, FEW) for seed in range(options.seeds)]
        check = random_features.diagnose(problems[0]["phi"]["forget"], problems[0]["phi"]["remain"])
    tables = [table(p) for p in problems]
    audits = [audit(p, jax.random.fold_in(p["key"], 7)) for p in smaller]
    where = environment()
    conditions = float(check.remain_condition), float(check.outside_condition)
    seeds, unseen = options.seeds, len(problems[0]["labels"]["unseen"])
    page = f"""# Exact unlearning, and what attacks make of it

Command: `python experiments/unlearning_exactness.py --seeds {seeds}` ({where["created"][:10]}, {where["device"]},
jax {where["versions"]["jax"]}, {time.perf_counter() - begin:.0f} s). Means over {seeds} seeds; distances are the largest.

{REMAIN} remaining, {FORGET} forgotten and {unseen} unseen digits; {2 * PAIRS} random features in double precision, squared
loss, starting weights of scale 0.1. Condition numbers of ΦᵣΦᵣᵀ {conditions[0]:.1e} and QQᵀ {conditions[1]:.1e}. All but
"SGD" are the limit of SGD in closed form: nothing here is a matter of training long enough.

{render(tables, audits)}
"""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "unlearning_exactness.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
