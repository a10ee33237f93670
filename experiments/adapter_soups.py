"""Soups of LoRA and of Flat-LoRA adapters: does averaging in weight space still help what was trained to be flat?

Command: python experiments/adapter_soups.py [--out docs/results] [--seeds 3]
Time:    about three minutes on two CPU cores
Result:  docs/results/adapter_soups.md

The task of flat_lora_sigma.py: pictures moved by (3, 3) pixels, 1,000 rows, a fifth of them mislabelled. On one pretrained
perceptron eight adapters of rank 8 are trained without noise and eight with σ = 0.3, each from its own start and in its own
order; soups are made of each eight and of all sixteen in closed form, without forming a model. Weights are learned on 500
further moved rows; the 10,000 test pictures are looked at by nothing that chooses.
"""

import argparse
import datetime
import functools
import pathlib
import subprocess
import time

import flat_lora_sigma as setting
import jax
import jax.numpy as jnp
import numpy as np

from clujax import data, lora, soups

COUNT, RANK, SIGMAS, HELD = 8, 8, (0.0, 0.3), 500
OBJECTIVE = soups.cross_entropy(lambda params, batch, key: setting.logits_of(params, batch["x"]))
INSIDE = soups.Descent(learning_rate=0.05, epochs=5)


def prepared(seed, found):
    """Base, spec, adapters by σ, training rows, held-out rows and test rows of a seed."""
    columns, moved = setting.task(seed, found)
    base = jax.jit(setting.pretrain)(jax.random.key(seed), columns["upright"])
    spec = lora.build_spec(base, [lora.LoraRule("kernel", RANK)])
    few = jax.tree.map(jnp.asarray, columns["few"])
    one = lambda key, sigma: setting.train(spec, base, few, key, setting.flat(), sigma)[0]
    every = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
    trained = every(jax.random.split(jax.random.key(seed), COUNT), jnp.array(SIGMAS))
    adapters = [[jax.tree.map(lambda leaf, i=i, k=k: leaf[i, k], trained) for k in range(COUNT)] for i in range(2)]
    rows = np.random.default_rng(seed).permutation(len(found.train["y"]))[setting.UPRIGHT + setting.ROWS :][:HELD]
    side = lambda part, rows: {"x": moved(part["x"][rows]), "y": np.asarray(part["y"])[rows]}
    return base, spec, adapters, few, side(found.train, rows), side(found.test, slice(None))


def methods(pool, batches, held, key):
    """Soups of a pool, as functions without arguments."""
    score = lambda params: -float(setting.nll(params, held))
    mehl = functools.partial(soups.mehl, pool, OBJECTIVE, batches, key=key, inner=INSIDE)
    return {
        "best by held-out NLL": lambda: soups.best_individual(pool, score),
        "uniform": lambda: soups.uniform(pool),
        "greedy": lambda: soups.greedy(pool, score),
        "HL-Soup": lambda: mehl(groups=soups.groups.whole),
        "HL-Soup+": lambda: mehl(groups=soups.groups.leaf),
    }


def measured(tell, held, params):
    """The numbers of one model."""
    return jax.tree.map(float, tell(params)) | {"held-out NLL": float(setting.nll(params, held))}


def main():
    """Measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    found, begin, rows = data.load("fashion_mnist"), time.perf_counter(), {}
    for seed in range(arguments.seeds):
        base, spec, (plain, flat), few, held, test = prepared(seed, found)
        tell = jax.jit(functools.partial(setting.measures, spec=spec, test=test, few=few, key=jax.random.key(9)))
        batches = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 100], held) for i in range(0, HELD, 100)]
        for name, each in {"LoRA": plain, "Flat-LoRA, σ 0.3": flat, "both": plain + flat}.items():
            pool = soups.AdapterPool(base, each, spec)
            if name != "both":
                for k in range(len(pool)):
                    rows.setdefault((name, "each alone"), []).append(measured(tell, held, pool.load(k)))
            for method, make in methods(pool, batches, held, jax.random.key(seed)).items():
                rows.setdefault((name, method), []).append(measured(tell, held, make().params))
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    text = report(rows, arguments.seeds, time.perf_counter() - begin)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "adapter_soups.md").write_text(text)
    print(text)


def report(rows, seeds, seconds):
    """The page as Markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    columns = {"test accuracy": "test, %", "corrupt accuracy": "with noise in the pictures, %", "test NLL": "test NLL",
               "held-out NLL": "held-out NLL", "sharp(0.2)": "sharpness(0.2)"}  # fmt: skip
    lines = [
        "# Soups of adapters, measured",
        "",
        f"`python experiments/adapter_soups.py --seeds {seeds}`, commit {commit}, {jax.devices()[0].device_kind}, "
        f"{datetime.date.today()}, {seconds:.0f} s. Set-up: the head of that file. Mean ± deviation over seeds (of the "
        "mean of eight for each alone).",
        "",
        "| adapters | soup | " + " | ".join(columns.values()) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for (pool, method), records in rows.items():
        cells = []
        for name in columns:
            values = np.array([record[name] for record in records]).reshape(seeds, -1).mean(1)
            digits = 1 if "accuracy" in name else 3
            cells.append(f"{values.mean():.{digits}f} ± {values.std(ddof=1) if seeds > 1 else 0:.{digits}f}")
        lines.append(f"| {pool} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
