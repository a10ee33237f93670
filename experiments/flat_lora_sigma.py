"""Flat-LoRA against its strength: Fashion-MNIST moved by (3, 3) pixels from 1,000 pictures with a fifth of wrong labels.

Command: python experiments/flat_lora_sigma.py [--out docs/results] [--seeds 5]
Time:    about ten minutes on two CPU cores
Result:  docs/results/flat_lora.md

All seeds and strengths of a rank are one compiled program: `jax.vmap` over seeds outside and over σ inside.
"""

import argparse
import datetime
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from clujax import data, geometry, lora, models
from clujax.reports.figures import look
from clujax.reports.figures.lora_slices import lora_planes, lora_slices

SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
RANKS = (8, 32, 1)
STEPS, BATCH, EPOCHS, ROWS, UPRIGHT = 1000, 50, 4, 1000, 30_000
TAU, DRAWS, CORRUPT = 0.2, 8, 0.25
SEVERITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
NET = models.mlp(10, widths=(128, 64))


def logits_of(params, x):
    """Outputs for flattened pictures in [0, 1]."""
    return NET.apply(params, {}, x)[0]


def nll(params, batch):
    """Mean cross-entropy in nats."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits_of(params, batch["x"]), batch["y"]).mean()


def loss_fn(params, batch, key):
    """The training loss."""
    return nll(params, batch), {}


def accuracy(params, batch):
    """Per cent of rows that are right, in parts of 1,000."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, 1000, *leaf.shape[1:]), batch)
    right = lambda part: jnp.mean(logits_of(params, part["x"]).argmax(-1) == part["y"])
    return 100 * jnp.mean(jax.lax.map(right, parts))


def task(seed, found):
    """Upright pictures, few moved ones with wrong labels among them, moved test pictures; all from one seed."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(found.train["y"]))
    unit = lambda x: (np.asarray(x, np.float32) / 255).reshape(len(x), -1)
    moved = lambda x: unit(np.roll(x, (3, 3), axis=(1, 2)))
    upright, few = order[:UPRIGHT], order[UPRIGHT : UPRIGHT + ROWS]
    x, y = np.asarray(found.train["x"]), np.asarray(found.train["y"])
    labels = y[few].copy()
    wrong = draw.permutation(ROWS)[: ROWS // 5]
    labels[wrong] = draw.integers(0, 10, len(wrong))
    return {"upright": {"x": unit(x[upright]), "y": y[upright]}, "few": {"x": moved(x[few]), "y": labels}}, moved


def pretrain(key, columns):
    """Four epochs of Adam from He's initialisation."""
    params, _ = NET.init(key, columns["x"][:1])
    he = lambda name, leaf: (
        jax.random.normal(geometry.leaf_key(key, name), leaf.shape) * np.sqrt(2 / leaf.shape[0])
        if leaf.ndim == 2 else jnp.zeros_like(leaf)
    )  # fmt: skip
    params = geometry.replaced(params, {name: he(name, leaf) for name, leaf in geometry.named(params).items()})
    tx, rows = optax.adam(1e-3), len(columns["y"])

    def epoch(carry, key):
        order = jax.random.permutation(key, rows)[: rows // 128 * 128].reshape(-1, 128)

        def step(carry, index):
            params, state = carry
            batch = jax.tree.map(lambda leaf: leaf[index], columns)
            updates, state = tx.update(jax.grad(nll)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, order)

    return jax.lax.scan(epoch, (params, tx.init(params)), jax.random.split(key, EPOCHS))[0][0]


def optimizer():
    """AdamW without decay, 3 % warm-up, a cosine to 0."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, round(0.03 * STEPS), STEPS)
    return optax.adamw(rate, weight_decay=0.0)


def train(spec, base, few, key, step_for, sigma):
    """Adapters after 1,000 steps, and the base that they belong to."""
    adapters, base = lora.init(key, base, spec)
    step = step_for(spec, sigma)
    order = jax.vmap(lambda k: jax.random.permutation(k, ROWS))(jax.random.split(key, STEPS * BATCH // ROWS))

    def one(state, index):
        return step.call(state, base, jax.tree.map(lambda leaf: leaf[index], few))[0], None

    state = lora.init_state(adapters, step.optimizer, jax.random.fold_in(key, 1))
    state, _ = jax.lax.scan(one, state, order.reshape(STEPS, BATCH))
    return state.adapters, base


def adapt(spec, base, few, key, step_for, sigma):
    """Merged parameters after 1,000 steps."""
    adapters, base = train(spec, base, few, key, step_for, sigma)
    return lora.merge(base, adapters, spec)


def measures(params, spec, few, test, key):
    """The row of the table."""
    noisy = lambda spread, i: (
        test
        | {"x": jnp.clip(test["x"] + spread * jax.random.normal(jax.random.fold_in(key, i), test["x"].shape), 0, 1)}
    )
    scale = geometry.filter_wise(spec.layouts)
    return {
        "test accuracy": accuracy(params, test),
        "corrupt accuracy": accuracy(params, noisy(CORRUPT, 0)),
        "test NLL": nll(params, test),
        "train loss": nll(params, few),
        "sharp(0.2)": geometry.sharpness(lambda p: nll(p, few), params, key, TAU, scale, num_samples=DRAWS),
        **{f"noise {spread:g}": accuracy(params, noisy(spread, i + 1)) for i, spread in enumerate(SEVERITIES)},
    }


def flat(sampler=geometry.normal, **options):
    """Steps of Flat-LoRA whose σ grows to a traced strength."""

    def step_for(spec, sigma):
        grow = lambda t: sigma * 0.5 * (1 - jnp.cos(jnp.pi * t / STEPS))
        return lora.make_step(loss_fn, spec, optimizer(), grow, sampler=sampler, **options)

    return step_for


def rms_std(kernel, adapter, entry, known=None):
    """Isotropic noise with the power that the filter-wise noise has on the base kernel."""
    return jnp.full((1,) * len(entry.shape), jnp.sqrt(jnp.mean(jnp.square(kernel))))


def factor_sam(spec, rho):
    """A step of SAM on the factors."""
    return lora.make_step(loss_fn, spec, lora.lora_sam(optimizer(), rho))


def merged_sam(spec, rho):
    """A step of SAM on the merged kernels."""
    return lora.make_merged_sam_step(loss_fn, spec, optimizer(), rho)


VARIANTS = {  # label: (how a step is made, strengths, options of the rule)
    "isotropic noise": (flat(deviation=rms_std), (0.1, 0.3), {}),
    "Rademacher noise": (flat(geometry.rademacher), (0.1, 0.3), {}),
    "noise on all parameters": (flat(extra=geometry.elementwise()), (0.1, 0.3), {}),
    "LoRA-SAM, ρ =": (factor_sam, (0.003, 0.05, 0.2), {}),
    "SAM on merged kernels, ρ =": (merged_sam, (0.05, 0.2, 0.5), {}),
    "DoRA": (flat(), (0.0, 0.3), {"magnitude": True}),
    "rsLoRA": (flat(), (0.0, 0.3), {"scaling": lora.rank_stabilized}),
    "PiSSA": (flat(), (0.0, 0.3), {"init": lora.pissa()}),
}  # fmt: skip


def main():
    """Measure, write the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    found, begin = data.load("fashion_mnist"), time.perf_counter()
    tasks = [task(seed, found) for seed in range(arguments.seeds)]
    moved = tasks[0][1]
    stack = lambda part: jax.tree.map(lambda *each: jnp.stack(each), *[columns[part] for columns, _ in tasks])
    few, test = stack("few"), {"x": jnp.asarray(moved(np.asarray(found.test["x"]))), "y": jnp.asarray(found.test["y"])}
    keys = jax.vmap(jax.random.key)(jnp.arange(arguments.seeds))
    train = jax.jit(pretrain)
    bases = [train(key, jax.tree.map(jnp.asarray, columns["upright"])) for key, (columns, _) in zip(keys, tasks)]
    base = jax.tree.map(lambda *each: jnp.stack(each), *bases)
    start = np.array(jax.jit(jax.vmap(lambda p: accuracy(p, test)))(base))
    print(f"bases on moved test pictures: {start.mean():.1f} %  ({time.perf_counter() - begin:.0f} s)", flush=True)

    def sweep(step_for, strengths, **rule):
        rule = {"rank": 8, "alpha": 16.0} | rule
        # A head of ten outputs has room for rank 10; the scale is that of the other kernels.
        scaling, most = rule.pop("scaling", lora.standard), rule.pop("rank")
        head = lambda alpha, _: scaling(alpha, most)
        spec = lora.build_spec(bases[0], [
            lora.LoraRule("layers.*kernel", rank=most, scaling=scaling, **rule),
            lora.LoraRule("^head/kernel", rank=min(most, 10), scaling=head, **rule),
        ])  # fmt: skip

        def cell(base, few, key, sigma):
            params = adapt(spec, base, few, jax.random.fold_in(key, 7), step_for, sigma)
            return measures(params, spec, few, test, jax.random.fold_in(key, 8)), params

        inner = jax.vmap(cell, in_axes=(None, None, None, 0))
        values, params = jax.jit(jax.vmap(inner, in_axes=(0, 0, 0, None)))(base, few, keys, jnp.asarray(strengths))
        return jax.tree.map(np.asarray, values), params, spec

    def traced(step_for, strengths, **rule):
        """SAM's radius is a constant of its step: one program each."""
        each = [sweep(lambda spec, _, rho=rho: step_for(spec, rho), (rho,), **rule)[0] for rho in strengths]
        return {name: np.concatenate([values[name] for values in each], 1) for name in each[0]}

    tables, kept = {}, {}
    for rank in RANKS:
        values, params, spec = sweep(flat(), SIGMAS, rank=rank)
        tables[rank] = values
        if rank == 8:
            kept = slices(params, spec, few)
        print(f"rank {rank}: {time.perf_counter() - begin:.0f} s", flush=True)
    others = {}
    for label, (step_for, strengths, rule) in VARIANTS.items():
        others[label] = traced(step_for, strengths) if "SAM" in label else sweep(step_for, strengths, **rule)[0]
        print(f"{label}: {time.perf_counter() - begin:.0f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures(arguments.out, kept, tables, arguments.seeds)
    text = report(tables, others, start, arguments.seeds, time.perf_counter() - begin)
    (arguments.out / "flat_lora_sigma.md").write_text(text)
    print(text)


def slices(params, spec, few):
    """Loss slices of seed 0 at σ = 0 and 0.3 along the same directions drawn for each network."""
    offsets, found = jnp.linspace(-1, 1, 21), {}
    rows = jax.tree.map(lambda leaf: leaf[0], few)
    draw = jax.jit(lambda p: (
        geometry.slice_1d(lambda q: nll(q, rows), p, geometry.random_direction(p, jax.random.key(1), spec.layouts), offsets),
        geometry.slice_2d(lambda q: nll(q, rows), p, tuple(
            geometry.random_direction(p, jax.random.key(i), spec.layouts) for i in (1, 2)), offsets),
    ))  # fmt: skip
    for i, sigma in enumerate(SIGMAS):
        if sigma in (0.0, 0.1, 0.3):
            line, plane = draw(jax.tree.map(lambda leaf, i=i: leaf[0, i], params))
            found |= {f"s{sigma:g}/line": np.asarray(line), f"s{sigma:g}/plane": np.asarray(plane),
                      f"s{sigma:g}/offsets": np.asarray(offsets)}  # fmt: skip
    return found


def figures(out, kept, tables, seeds):
    """Loss slices, and every measure against σ."""
    methods = [
        {"key": f"s{sigma:g}", "label": f"Flat-LoRA, σ {sigma:g}" if sigma else "LoRA",
         "settings": {"objective": "flat" if sigma else "lora"}}
        for sigma in (0.0, 0.1, 0.3)
    ]  # fmt: skip
    lora_slices(kept, methods, seeds=f"seed 0 of {seeds}").savefig(out / "flat_lora_slices.png", dpi=110)
    lora_planes(kept, methods, seeds=f"seed 0 of {seeds}").savefig(out / "flat_lora_planes.png", dpi=110)
    names = ("test accuracy", "corrupt accuracy", "test NLL", "sharp(0.2)")
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 4), names):
        for rank, marker, colour in zip(RANKS, "osD", look.colours(["a", "b", "c"]).values()):
            values = tables[rank][name]
            axes.errorbar(SIGMAS, values.mean(0), values.std(0, ddof=1), fmt=f"{marker}-", ms=4, capsize=2, color=colour,
                          label=f"rank {rank}")  # fmt: skip
        axes.set_xlabel("σ")
        axes.set_ylabel(name + (", %" if "accuracy" in name else ", nats"))
        look.plain(axes, "both")
    look.legend(figure, axes, 3)
    look.title(figure, f"Flat-LoRA against its strength (mean ± standard deviation, {seeds} seeds)")
    figure.savefig(out / "flat_lora_sigma.png", dpi=110)


def report(tables, others, start, seeds, seconds):
    """The page as Markdown, acceptance lines last."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    names = ("test accuracy", "corrupt accuracy", "test NLL", "train loss", "sharp(0.2)")
    digits = lambda name: 1 if "accuracy" in name or "noise" in name else 3
    told = lambda v, name: f"{v.mean():.{digits(name)}f} ± {v.std(ddof=1):.{digits(name)}f}"
    lines = [
        f"`python experiments/flat_lora_sigma.py --seeds {seeds}`, commit {commit}, {jax.devices()[0].device_kind}, "
        f"{datetime.date.today()}, {seconds:.0f} s. Base networks on moved test pictures: {start.mean():.1f} %.",
    ]
    for rank, values in tables.items():
        lines += ["", f"### Rank {rank}", "", "| σ | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
        lines += [
            f"| {sigma:g} | " + " | ".join(told(values[name][:, i], name) for name in names) + " |"
            for i, sigma in enumerate(SIGMAS)
        ]
    lines += ["", "### Rank 8, other noises, baselines and adapters", "", "| | " + " | ".join(names) + " |",
              "|" + "---|" * (len(names) + 1)]  # fmt: skip
    for label, values in others.items():
        for i, strength in enumerate(VARIANTS[label][1]):
            what = f"{label} {strength:g}" if "SAM" in label else f"{label}, σ {strength:g}"
            lines.append(f"| {what} | " + " | ".join(told(values[name][:, i], name) for name in names) + " |")
    shifts = [f"noise {spread:g}" for spread in SEVERITIES]
    lines += ["", "### Accuracy by severity of noise in the pictures, rank 8", "", "| σ | " + " | ".join(shifts) + " |",
              "|" + "---|" * (len(shifts) + 1)]  # fmt: skip
    lines += [
        f"| {sigma:g} | " + " | ".join(told(tables[8][name][:, i], name) for name in shifts) + " |"
        for i, sigma in enumerate(SIGMAS)
    ]
    lines += ["", "### Acceptance", ""]
    at = SIGMAS.index(0.3)
    for rank in (8, 32):
        mean = {name: tables[rank][name].mean(0) for name in names}
        checks = {
            "sharp(0.2) falls with σ": bool(np.all(np.diff(mean["sharp(0.2)"]) < 0)),
            "training loss rises with σ": bool(np.all(np.diff(mean["train loss"]) > 0)),
            f"test NLL lower by more than 0.3 at σ = 0.3 ({mean['test NLL'][0] - mean['test NLL'][at]:.2f})": bool(
                mean["test NLL"][0] - mean["test NLL"][at] > 0.3
            ),
            f"test accuracy + 1.5 at σ = 0.3 ({mean['test accuracy'][at] - mean['test accuracy'][0]:.1f})": bool(
                mean["test accuracy"][at] - mean["test accuracy"][0] >= 1.5
            ),
            f"corrupt accuracy + 3 at σ = 0.3 ({mean['corrupt accuracy'][at] - mean['corrupt accuracy'][0]:.1f})": bool(
                mean["corrupt accuracy"][at] - mean["corrupt accuracy"][0] >= 3
            ),
        }
        lines += [f"- rank {rank}: {said}: {'met' if ok else '**missed**'}" for said, ok in checks.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
