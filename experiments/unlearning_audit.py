"""Attacks by many models on small networks: U-LiRA and the forgetting quality ε of methods that population attacks let pass.

Command: python experiments/unlearning_audit.py [--models 64]
Time:    about ten minutes on two CPU cores
Writes:  docs/results/unlearning_audit.md
Data:    apt-get install dataset-fashion-mnist, or --data PATH
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from clujax import attacks, data, models
from clujax.geometry import featurize, fourier_features, median_distance
from clujax.training.workdir import environment
from clujax.unlearning import ensemble_logits, random_features, train_ensemble, u_lira_scores
from clujax.unlearning.heads import centred_targets

ROWS, POOL = 2000, 200
RECIPE = {"epochs": 40, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
BUDGET = {"epochs": 5, "batch_size": 100}
NETWORK = models.mlp(num_classes=10, widths=(64,))
RESULTS = pathlib.Path("docs/results")


def rows(path: str | None) -> dict:
    """2,000 images pooled to 14 × 14 in [0, 1]."""
    dataset = data.load("fashion_mnist", path=path)
    chosen = np.random.default_rng(0).permutation(len(dataset.train["y"]))[:ROWS]
    x = np.asarray(dataset.train["x"][chosen], np.float32).reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return {"x": x[..., None], "y": np.asarray(dataset.train["y"][chosen]).astype(np.int32)}


def methods(columns: dict) -> dict[str, Callable]:
    """`unlearn(ensemble, forget [S, N], remain [S, N], key) -> ensemble` by name, all on the same engine."""
    y = columns["y"]
    flat = jnp.asarray(columns["x"]).reshape(ROWS, -1)
    scale = float(median_distance(flat, jax.random.key(1))) / 2
    phi = featurize(fourier_features(jax.random.key(2), flat.shape[1], 1000, scale), flat)
    onehot = centred_targets(y, 10)

    @jax.jit
    def relabelled(remain):
        """What a ridge head on random features, fitted on the remaining rows of one member, says of every row."""
        kept = remain[:, None] * phi
        ridge = 1e-2 * jnp.sum(remain) / phi.shape[1]
        head = random_features.sgd_limit(kept, remain[:, None] * onehot, jnp.zeros((phi.shape[1], 10)), ridge)
        return (phi @ head).argmax(-1)

    def train(ensemble, forget, remain, key, rate, **options):
        keys = jax.random.split(key, len(forget))
        keep = options.pop("keep", forget | remain)
        return train_ensemble(NETWORK, columns, keep, keys, start=ensemble, learning_rate=rate, **BUDGET | options)

    def random_label(ensemble, forget, remain, key):
        shift = np.asarray(jax.random.randint(jax.random.fold_in(key, 1), forget.shape, 1, 10))
        return train(ensemble, forget, remain, key, 0.02, labels=np.where(forget, (y + shift) % 10, y).astype(np.int32))

    def muso(ensemble, forget, remain, key):
        told = np.stack([np.asarray(relabelled(jnp.asarray(each, jnp.float32))) for each in remain])
        labels = np.where(forget, told, y).astype(np.int32)
        return train(ensemble, forget, remain, key, 0.05, labels=labels, epochs=10)

    def ascent(ensemble, forget, remain, key):
        weights = np.where(forget, -0.3, 1.0).astype(np.float32)
        return train(ensemble, forget, remain, key, 0.02, weights=weights)

    def retrain(ensemble, forget, remain, key):
        return train_ensemble(NETWORK, columns, remain, jax.random.split(key, len(forget)), **RECIPE)

    return {
        "Nothing": lambda ensemble, forget, remain, key: ensemble,
        "Finetune": lambda e, f, r, k: train(e, f, r, k, 0.05, keep=r),
        "Random label": random_label,
        "NegGrad+": ascent,
        "MUSO, random features": muso,
        "Retrain": retrain,
    }


def main() -> None:
    """Train, unlearn, attack, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--data", help="folder of the idx files, when the data set is not found by itself")
    options = parser.parse_args()
    begin, columns, pool = time.perf_counter(), rows(options.data), np.arange(POOL)
    count, key = options.models, jax.random.key(0)
    forget = np.tile(np.arange(ROWS) < POOL, (count, 1))
    score = lambda ensemble: attacks.scaled_confidence(
        ensemble_logits(NETWORK, ensemble, columns["x"][:POOL]), np.tile(columns["y"][:POOL], (count, 1))
    )
    fresh = partial(train_ensemble, NETWORK, columns)
    original = fresh(np.ones_like(forget), jax.random.split(jax.random.fold_in(key, 1), count), **RECIPE)
    retrained = np.asarray(
        score(fresh(~forget, jax.random.split(jax.random.fold_in(key, 2), count), **RECIPE)), np.float32
    )
    null = attacks.null_score(jax.random.key(3), count)
    held_out = np.arange(count // 4)
    lines = [
        "| method | U-LiRA AUC | balanced accuracy % | TPR at 1 % FPR | mean ε | score / null |",
        "|---|---|---|---|---|---|",
    ]
    for name, unlearn in methods(columns).items():
        scores, learnt = u_lira_scores(NETWORK, columns, pool, count, unlearn, key=jax.random.fold_in(key, 4), **RECIPE)
        audit = attacks.u_lira(jnp.asarray(scores, jnp.float32), learnt, held_out)
        after = score(unlearn(original, forget, ~forget, jax.random.fold_in(key, 5)))
        epsilon = attacks.forget_epsilon(np.asarray(after, np.float32), retrained)
        cells = [f"{float(audit.auc):.3f}", f"{100 * float(audit.balanced_accuracy):.1f}"]
        cells += [f"{100 * float(audit.tpr_at_fpr_01):.1f} %", f"{float(epsilon.mean()):.2f}"]
        cells += [f"{float(attacks.forget_score(epsilon, count) / null.score):.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    where = environment()
    page = f"""# Unlearning under attacks by many models

Command: `python experiments/unlearning_audit.py --models {count}` ({where["created"][:10]}, {where["device"]}, jax
{where["versions"]["jax"]}, {time.perf_counter() - begin:.0f} s).

{count} perceptrons 196-64-10 on {ROWS} Fashion-MNIST images; {POOL} of them form the pool. U-LiRA: half of the networks
learnt and then unlearned an example, the other half never saw it; {len(held_out)} are attacked, the others
give the Gaussians; chance is 0.5, 50 % and 1 %. ε: {count} networks that unlearned the whole pool beside
{count} retrained ones; retraining against itself has ε {float(null.epsilon):.2f} and score / null 1.

{chr(10).join(lines)}
"""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "unlearning_audit.md").write_text(page)


if __name__ == "__main__":
    main()
