"""Soups of sixteen perceptrons fine-tuned from one start on Fashion-MNIST: every method, pool and block sizes, ablations.

Command: python experiments/soups_fashion_mnist.py [--out docs/results] [--seeds 4]
Time:    about ten minutes on two CPU cores
Result:  docs/results/mehl_soup.md

A perceptron 784-256-64-10 is pretrained on 4,000 pictures; sixteen are fine-tuned from it in one vmapped program, each on
1,500 of 6,000 pictures with its own learning rate, weight decay, label smoothing and input noise. Coefficients are learned
on 2,000 held-out pictures; the 10,000 test pictures are looked at by nothing that chooses.
"""

import argparse
import datetime
import functools
import pathlib
import runpy
import subprocess
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from clujax import data, geometry, models, soups
from clujax.reports.figures import look
from clujax.reports.figures.soup_weights import soup_weights
from clujax.soups import Descent, StackedPool, Subset, finetuning, groups

CONFIG = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "configs/soups/fashion_mnist.py"))["get_config"]()
COUNT, BATCH, INNER, RATE = CONFIG.pool.count, CONFIG.learn.batch_size, CONFIG.learn.epochs, CONFIG.learn.learning_rate
NET = models.mlp(10, widths=(256, 64))
OBJECTIVE = soups.cross_entropy(lambda params, batch, key: NET.apply(params, {}, batch["x"])[0])
INSIDE = Descent(learning_rate=RATE, epochs=INNER)


@jax.jit
def judged(params, columns):
    """Accuracy in per cent and mean negative log-likelihood."""
    logits = NET.apply(params, {}, columns["x"])[0]
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, columns["y"]).mean()
    return 100 * jnp.mean(logits.argmax(-1) == columns["y"]), nll


def start(key, columns):
    """Three epochs of Adam from He's initialisation."""
    params, _ = NET.init(key, columns["x"][:1])
    he = {
        name: jax.random.normal(geometry.leaf_key(key, name), leaf.shape) * np.sqrt(2 / leaf.shape[0])
        if leaf.ndim == 2 else jnp.zeros_like(leaf)
        for name, leaf in geometry.named(params).items()
    }  # fmt: skip
    tx, rows = optax.adam(1e-3), len(columns["y"])
    order = [jax.random.permutation(jax.random.fold_in(key, e), rows)[: rows // 128 * 128] for e in range(3)]

    def step(carry, index):
        params, state = carry
        batch = jax.tree.map(lambda leaf: leaf[index], columns)
        updates, state = tx.update(jax.grad(lambda p: OBJECTIVE(p, batch)[0])(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    begin = geometry.replaced(params, he)
    return jax.lax.scan(step, (begin, tx.init(begin)), jnp.concatenate(order).reshape(-1, 128))[0][0]


def pool(seed, key, params, columns, **changes):
    """Sixteen models fine-tuned from `params` in one program, as configs/soups/fashion_mnist.py has them."""
    settings = CONFIG.pool.copy_and_resolve_references()
    settings.update(changes)
    recipes = finetuning.draw_recipes(settings, seed)
    return StackedPool(finetuning.fine_tune(NET, params, columns, settings, recipes, key))


def prepared(seed, found):
    """Pool, held-out batches and columns, test columns of a seed."""
    order = np.random.default_rng(seed).permutation(len(found.train["y"]))
    unit = lambda x: jnp.asarray((np.asarray(x, np.float32) / 255).reshape(len(x), -1))
    side = lambda rows: {"x": unit(found.train["x"][rows]), "y": jnp.asarray(found.train["y"][rows])}
    first, tune, held = side(order[:4000]), side(order[4000:10_000]), side(order[10_000:12_000])
    test = {"x": unit(found.test["x"]), "y": jnp.asarray(found.test["y"])}
    key = jax.random.key(seed)
    params = jax.jit(start)(key, first)
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i : i + BATCH], held) for i in range(0, 2000, BATCH)]
    return params, tune, batches, held, test, key


def methods(made, batches, held, key):
    """Every method as a function without arguments."""
    score = lambda params: float(judged(params, held)[0])
    mehl = lambda size, rule, **more: soups.mehl(
        made, OBJECTIVE, batches, key=key, block_size=size, groups=rule, inner=INSIDE, **more
    )
    learned = lambda rule: soups.learned(
        made, OBJECTIVE, batches, key=key, groups=rule, learning_rate=RATE, epochs=INNER
    )
    return {
        "best individual": lambda: soups.best_individual(made, score),
        "uniform": lambda: soups.uniform(made),
        "greedy": lambda: soups.greedy(made, score),
        "Learned-Soup": lambda: learned(groups.whole),
        "Learned-Soup+": lambda: learned(groups.leaf),
        "HL-Soup": lambda: mehl(COUNT, groups.whole),
        "HL-Soup+": lambda: mehl(COUNT, groups.leaf),
        "MEHL-Soup, b = 4": lambda: mehl(4, groups.whole),
        "MEHL-Soup+, b = 4": lambda: mehl(4, groups.leaf),
        "MEHL-Soup, b = 4, paper's form, 3 sweeps": lambda: mehl(4, groups.whole, reference=soups.pool_mean, sweeps=3),
        "MEHL-Soup+, b = 4, weights in [0, 1]": lambda: mehl(4, groups.leaf, extrapolate=False),
        "HL-Soup+ by Gauss–Newton": lambda: soups.mehl(
            made, OBJECTIVE, batches, key=key, groups=groups.leaf, inner=soups.GaussNewton(steps=3, chunk=8)
        ),
    }  # fmt: skip


def variations(made, ranked, batches, held, key):
    """Soups by (what varies, method, its size), as functions without arguments; `ranked` are models, the best first."""
    mehl = lambda some, size: soups.mehl(
        some, OBJECTIVE, batches, key=key, block_size=size, groups=groups.leaf, inner=INSIDE
    ).params  # fmt: skip
    greedy = lambda some: soups.greedy(some, lambda p: float(judged(p, held)[0])).params
    found = {}
    for size in (2, 4, 8, 12, 16):
        some = Subset(made, list(range(size)))
        found["pool", "MEHL-Soup+, b = 4", size] = functools.partial(mehl, some, min(4, size))
        found["pool", "uniform", size] = lambda some=some: soups.uniform(some).params
        found["pool", "greedy", size] = functools.partial(greedy, some)
    for size in (2, 4, 8, 16):
        found["block", "MEHL-Soup+", size] = functools.partial(mehl, made, size)
    for gone in (0, 2, 4, 8):
        rest = Subset(made, ranked[gone:])
        found["removed", "MEHL-Soup+, b = 4", gone] = functools.partial(mehl, rest, 4)
        found["removed", "greedy", gone] = functools.partial(greedy, rest)
    return found


def main():
    """Measure, write the page and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    found, begin, rows, curves, kept, basins = data.load("fashion_mnist"), time.perf_counter(), {}, {}, {}, []
    add = lambda table, name, record: table.setdefault(name, []).append(record)
    for seed in range(arguments.seeds):
        params, tune, batches, held, test, key = prepared(seed, found)
        tell = lambda params, held=held, test=test: np.array([*judged(params, held), *judged(params, test)], float)
        made = pool(seed, jax.random.fold_in(key, 1), params, tune)
        each = np.array([tell(made.load(k)) for k in range(COUNT)])
        add(rows, "mean individual", (*each.mean(0), 0.0, np.nan))
        for name, make in methods(made, batches, held, key).items():
            clock = time.perf_counter()
            soup = make()
            add(rows, name, (*tell(soup.params), time.perf_counter() - clock, np.abs(soup.weights).max()))
            if seed == 0:
                kept[name] = soup
        basins.append(soups.check_basin(rows["uniform"][-1][0], list(each[:, 0]), " %"))
        ranked = list(np.argsort(-each[:, 0], kind="stable"))
        for name, params_of in variations(made, ranked, batches, held, key).items():
            add(curves, name, tell(params_of()))
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    far = outside(seed, params, tune, held, key)
    arguments.out.mkdir(parents=True, exist_ok=True)
    picture_weights(kept).savefig(arguments.out / "mehl_soup_weights.png", dpi=110)
    picture_curves(curves, arguments.seeds).savefig(arguments.out / "mehl_soup_curves.png", dpi=110)
    text = report(rows, curves, basins, far, arguments.seeds, time.perf_counter() - begin)
    (arguments.out / "mehl_soup.md").write_text(text)
    print(text)


def outside(seed, params, tune, held, key):
    """A pool that left the basin: learning rates of 5e-3 on pictures upside down."""
    turned = tune | {"x": tune["x"].reshape(-1, 28, 28)[:, ::-1].reshape(len(tune["y"]), -1)}
    seen = held | {"x": held["x"].reshape(-1, 28, 28)[:, ::-1].reshape(len(held["y"]), -1)}
    made = pool(seed, jax.random.fold_in(key, 9), params, turned, learning_rate=(5e-3, 2e-2))
    score = lambda p: float(judged(p, seen)[0])
    scores = [score(made.load(k)) for k in range(COUNT)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        soups.check_basin(score(soups.uniform(made).params), scores, " %")
    taken = int((soups.greedy(made, score, scores=scores).weights[:, 0] > 0).sum())
    return [str(each.message) for each in caught if issubclass(each.category, soups.BasinWarning)], taken


def picture_weights(kept):
    """Mixing weights by layer and model of three methods that have one for each layer."""
    names = ("Learned-Soup+", "HL-Soup+", "MEHL-Soup+, b = 4")
    weights = {name: kept[name].weights[:, np.asarray(kept[name].groups.of)] for name in names}
    return soup_weights(weights, list(geometry.named(kept[names[0]].params)), "seed 0")


def picture_curves(curves, seeds):
    """Test NLL and accuracy against pool size, block size and the best models removed."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, 3)
    said = {"pool": "models in the pool", "block": "models in a block", "removed": "best models removed"}
    palette = dict(zip(("MEHL-Soup+, b = 4", "MEHL-Soup+", "greedy", "uniform"), look.colours(list("abcd")).values()))
    for column, (kind, words) in enumerate(said.items()):
        if kind == "block":
            panels[0][column].set_title("MEHL-Soup+ of all sixteen", fontsize=10)
        for method in dict.fromkeys(name for what, name, _ in curves if what == kind):
            sizes = [size for what, name, size in curves if (what, name) == (kind, method)]
            values = np.array([curves[kind, method, size] for size in sizes])
            for row, (index, label) in enumerate(((3, "test NLL, nats"), (2, "test accuracy, %"))):
                axes, seen = panels[row][column], values[..., index]
                axes.errorbar(sizes, seen.mean(1), seen.std(1, ddof=1) if seeds > 1 else None, fmt="o-", ms=4, capsize=2,
                              color=palette[method], label=method)  # fmt: skip
                axes.set_xlabel(words)
                axes.set_xticks(sizes)
                axes.set_ylabel(label)
                look.plain(axes, "both")
    look.legend(figure, panels[1][0], 4)
    look.title(figure, f"Soups against pool size, block size and without the best models ({seeds} seeds)")
    return figure


def report(rows, curves, basins, far, seeds, seconds):
    """The page as Markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    mean = {name: np.array(found, float).mean(0) for name, found in rows.items()}
    std = {name: np.array(found, float).std(0, ddof=1) for name, found in rows.items()}
    lines = [
        "# Soups of sixteen perceptrons, measured",
        "",
        f"`python experiments/soups_fashion_mnist.py --seeds {seeds}`, commit {commit}, {jax.devices()[0].device_kind}, "
        f"{datetime.date.today()}, {seconds:.0f} s. Set-up and what is looked at when: the head of that file. AdamW, unit "
        f"directions, learning rate {RATE}, {INNER} inner epochs of {2000 // BATCH} batches. Seconds are wall time on a "
        "shared machine, compilation included.",
        "",
        "| method | test accuracy, % | held-out NLL | test NLL | gap | largest weight | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rows:
        m, s = mean[name], std[name]
        largest = "–" if np.isnan(m[5]) else f"{m[5]:.2f}"
        lines.append(
            f"| {name} | {m[2]:.1f} ± {s[2]:.1f} | {m[1]:.4f} ± {s[1]:.4f} | {m[3]:.4f} ± {s[3]:.4f} | {m[3] - m[1]:+.4f} | "
            f"{largest} | {m[4]:.1f} |"
        )
    held, test, right = ({name: value[i] for name, value in mean.items()} for i in (1, 3, 2))
    ordered = held["uniform"] > held["Learned-Soup"] > held["MEHL-Soup, b = 4"]
    first = [name for name in mean if name not in ("mean individual",) and "Gauss" not in name]
    checks = {
        "held-out NLL: uniform > learned > MEHL (b = 4)": ordered,
        "held-out NLL: HL+ lowest of the first-order soups": min(first, key=held.get) == "HL-Soup+",
        **{
            f"test NLL of {name} at least 0.005 below learned ({test['Learned-Soup'] - test[name]:.4f})":
                test["Learned-Soup"] - test[name] >= 0.005
            for name in ("HL-Soup", "MEHL-Soup, b = 4")
        },
        **{
            f"test NLL of {name} at least 0.015 below uniform ({test['uniform'] - test[name]:.4f})":
                test["uniform"] - test[name] >= 0.015
            for name in ("HL-Soup", "MEHL-Soup, b = 4")
        },
        "accuracy of every soup within 0.5 of the best": max(right[n] for n in first) - min(right[n] for n in first) <= 0.5,
        f"uniform above the mean individual by 0.2 ({right['uniform'] - right['mean individual']:.2f})":
            right["uniform"] - right["mean individual"] >= 0.2,
        "the pool outside the basin is warned of": bool(far[0]),
    }  # fmt: skip
    lines += ["", "## Acceptance", ""] + [f"- {said}: {'met' if ok else '**missed**'}" for said, ok in checks.items()]
    below = len(basins) - sum(basins)
    lines += ["", "The warning: " + (far[0][0] if far[0] else "none") + f". Greedy took {far[1]} of that pool. On {below} of "
              f"the {len(basins)} pools of the table the uniform soup was below the mean of its models on held-out rows, and "
              "was warned of too.",
              "", "Weights of biases are large because their directions are short: a coefficient is a distance along a unit "
              "direction.",
              "", "![mixing weights](mehl_soup_weights.png)", "", "![curves](mehl_soup_curves.png)", "",
              "## Curves: test accuracy / test NLL", "", "| | method | size | accuracy, % | NLL |",
              "|---|---|---|---|---|"]  # fmt: skip
    for (kind, method, size), found in curves.items():
        m = np.array(found).mean(0)
        lines.append(f"| {kind} | {method} | {size} | {m[2]:.1f} | {m[3]:.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
