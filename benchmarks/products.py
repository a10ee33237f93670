"""Time curvature products and Fisher passes beside the gradients and the epoch that they are counted in.

    python benchmarks/products.py [--repeats 15] [--out FILE.json]

An MLP 784-256-128-10 on random rows, batches of 128, in one process. What is compared takes turns, so that a busy machine
slows both; a ratio is the median over turns of the ratio within a turn. Compilation is timed apart.
"""

import argparse
import json
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import lineax
import optax
from rich.console import Console
from rich.table import Table

from clujax.geometry import batch_diagonal, diagonal, fvp, gnvp, hvp, inverse_hvp

WIDTHS = (784, 256, 128, 10)


def network(key, rows, batches):
    """Parameters, stacked batches, outputs and per-row losses."""
    keys = jax.random.split(key, 2 * len(WIDTHS))
    params = [
        {"w": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, "b": jnp.zeros(n)}
        for k, m, n in zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    ]
    data = {
        "x": jax.random.normal(keys[-1], (batches, rows, WIDTHS[0])),
        "y": jax.random.randint(keys[-2], (batches, rows), 0, WIDTHS[-1]),
    }

    def outputs(p, batch):
        z = batch["x"]
        for layer in p[:-1]:
            z = jax.nn.relu(z @ layer["w"] + layer["b"])
        return z @ p[-1]["w"] + p[-1]["b"]

    def losses(p, batch):
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs(p, batch), batch["y"])

    return params, [jax.tree.map(lambda leaf, i=i: leaf[i], data) for i in range(batches)], outputs, losses


def product_cases(params, batch, outputs, losses):
    """Name -> (a call, target): the first is the gradient. All arrays are arguments, so that nothing is folded away."""

    def loss(p, batch):
        return jnp.mean(losses(p, batch))

    def loss_of_outputs(z, batch):
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(z, batch["y"]))

    vector = jax.grad(loss)(params, batch)
    ten = lineax.CG(rtol=0.0, atol=0.0, max_steps=10)

    def on(batch, f):
        return lambda *args: f(*args, batch)

    cases = {
        "gradient": (lambda p, v, b: jax.grad(loss)(p, b), None),
        "hvp": (lambda p, v, b: hvp(on(b, loss), p, v), 3.0),
        "gnvp": (lambda p, v, b: gnvp(on(b, outputs), on(b, loss_of_outputs), p, v), None),
        "fvp": (lambda p, v, b: fvp(on(b, outputs), p, v), None),
        "inverse_hvp, 10 steps": (lambda p, v, b: inverse_hvp(on(b, loss), p, v, damping=1.0, solver=ten), None),
    }
    return {name: (partial(jax.jit(f), params, vector, batch), target) for name, (f, target) in cases.items()}


def pass_cases(params, batches, outputs, losses, key):
    """Name -> (a pass over all batches, target): the first is a plain epoch of SGD with momentum."""
    tx = optax.sgd(0.01, momentum=0.9)

    @partial(jax.jit, donate_argnums=0)
    def train(state, batch):
        gradient = jax.grad(lambda p: jnp.mean(losses(p, batch)))(state[0])
        updates, opt_state = tx.update(gradient, state[1], state[0])
        return optax.apply_updates(state[0], updates), opt_state

    def epoch():
        state = jax.tree.map(jnp.copy, (params, tx.init(params)))
        for batch in batches:
            state = train(state, batch)
        return state

    def fisher(**options):
        @partial(jax.jit, donate_argnums=0)
        def add(total, batch, i):
            draw = jax.random.fold_in(key, i)
            found = batch_diagonal(losses, params, batch, outputs=outputs, key=draw, **options)
            return jax.tree.map(jnp.add, total, found)

        def all_batches():
            total = jax.tree.map(jnp.zeros_like, params)
            for i, batch in enumerate(batches):
                total = add(total, batch, i)
            return total

        return all_batches

    return {
        "epoch": (epoch, None),
        "Fisher, batch": (fisher(kind="batch"), 1.1),
        "diagonal(), the whole call": (lambda: diagonal(losses, params, batches), None),
        "Fisher, example, all at once": (fisher(kind="example"), None),
        "Fisher, example, microbatch 1": (fisher(kind="example", microbatch=1), None),
        "Fisher, true, microbatch 1": (fisher(kind="true", microbatch=1), None),
    }


def measure(cases, repeats, inner):
    """Milliseconds of each case by turn, and its first call: {name: ([ms, ...], first_ms)}."""

    def timed(f, times):
        start = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(f())
        return (time.perf_counter() - start) * 1e3 / times

    first = {name: timed(f, 1) for name, (f, _) in cases.items()}
    turns = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (f, _) in cases.items():
            turns[name].append(timed(f, inner))
    return {name: (turns[name], first[name]) for name in cases}


def rows_of(cases, repeats, inner):
    """One record per case; the first case is the unit."""
    measured = measure(cases, repeats, inner)
    unit_name, (unit, _) = next(iter(measured.items()))
    return [
        {
            "case": name,
            "ms": statistics.median(turns),
            "unit": unit_name,
            "ratio": statistics.median(a / b for a, b in zip(turns, unit, strict=True)),
            "target": cases[name][1],
            "first_call_ms": first,
        }
        for name, (turns, first) in measured.items()
    ]


def main():
    """Measure, print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="turns of each case")
    parser.add_argument("--batches", type=int, default=20, help="batches of 128 rows in an epoch")
    parser.add_argument("--out", help="write the records here as JSON")
    args = parser.parse_args()
    if args.repeats < 1 or args.batches < 1:
        parser.error("--repeats and --batches must be at least 1")

    key = jax.random.key(0)
    params, batches, outputs, losses = network(key, 128, args.batches)
    records = rows_of(product_cases(params, batches[0], outputs, losses), args.repeats, 20)
    records += rows_of(pass_cases(params, batches, outputs, losses, key), args.repeats, 1)

    device = jax.devices()[0]
    table = Table(title=f"MLP 784-256-128-10, B 128, {device.device_kind} ({device.platform}), jax {jax.__version__}")
    for heading in ("case", "ms", "ratio", "of", "target", "first ms"):
        table.add_column(heading, justify="left" if heading in ("case", "of") else "right", no_wrap=True)
    for r in records:
        target = "" if r["target"] is None else f"≤ {r['target']}"
        table.add_row(r["case"], f"{r['ms']:.2f}", f"{r['ratio']:.2f}", r["unit"], target, f"{r['first_call_ms']:.0f}")
    console = Console(width=max(Console().width, 96))
    console.print(table)
    if args.out:
        with open(args.out, "w") as file:
            json.dump({"device": device.device_kind, "jax": jax.__version__, "records": records}, file, indent=1)


if __name__ == "__main__":
    main()
