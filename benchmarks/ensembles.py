"""Many small networks in one program beside a Python loop over them, in the same process.

Command: python benchmarks/ensembles.py [--members 64] [--rows 2000] [--epochs 3] [--repeats 5] [--out FILE.md]

Both sides train the same networks (the same seeds and batches, by the recipe of `retrain`) from initialisation to the last
step, and the parameters are compared. The loop is the fastest one that the library's parts allow: one step compiled once
for all networks, rows on the device, nothing logged. Where the loop's cost is dispatch, the ensemble wins; where it is
arithmetic, both do the same. The last row is the plain call, `unlearn(retrain(...), ...)` for each network, which compiles
each time; it is measured on two networks and multiplied.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, table

from clujax.adaptation.losses import descend
from clujax.adaptation.optimizers import sgd
from clujax.data import resident
from clujax.models import cnn, mlp
from clujax.training import init_state, make_train_step
from clujax.unlearning import Request, retrain, unlearn
from clujax.unlearning.ensembles import member, train_ensemble

SIDE = 14
CASES = (
    ("MLP 196-32-10, batch 16", lambda: mlp(10, (32,)), 16, 1.0),
    ("MLP 196-32-10, batch 32", lambda: mlp(10, (32,)), 32, 1.0),
    ("MLP 196-32-10, batch 128", lambda: mlp(10, (32,)), 128, 1.0),
    ("MLP 196-8-10, batch 16", lambda: mlp(10, (8,)), 16, 1.0),
    ("MLP 196-128-10, batch 32", lambda: mlp(10, (128,)), 32, 1.0),
    ("CNN 8, BatchNorm, batch 16", lambda: cnn(10, (8,)), 16, 0.1),
)


def both_sides(classifier, rows: dict, members: int, epochs: float, batch_size: int):
    """`ensemble()` and `loop()`, each giving the trained parameters, stacked or as a list."""
    keys = jax.random.split(jax.random.key(0), members)
    keep = np.ones((members, len(rows["y"])), bool)
    request = Request(classifier, None, None, rows, rows, 10)
    num_steps = int(np.ceil(epochs * np.ceil(len(rows["y"]) / batch_size)))
    tx = sgd(0.05, num_steps)
    step, init = make_train_step(descend(request), tx), jax.jit(classifier.init)
    held = {name: jnp.asarray(column) for name, column in rows.items()}

    def ensemble():
        trained = train_ensemble(classifier, held, keep, keys, epochs=epochs, batch_size=batch_size)
        return jax.block_until_ready(trained)

    def loop():
        found = []
        for key in keys:
            prepare_key, run_key = jax.random.split(key)
            init_key, stream_key = jax.random.split(prepare_key)
            batch_at = resident(held, batch_size, stream_key)
            state = init_state(*init(init_key, held["x"][:1]), tx, run_key)
            for s in range(num_steps):
                state, _ = step(state, batch_at(s))
            found.append(state.params)
        return jax.block_until_ready(found)

    return ensemble, loop


def distance(ensemble, singles) -> float:
    """The largest difference of a parameter between the two sides."""
    pairs = (
        (a, b)
        for m, single in enumerate(singles)
        for a, b in zip(jax.tree.leaves(member(ensemble, m)[0]), jax.tree.leaves(single), strict=True)
    )
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


def plain_calls(classifier, rows: dict, members: int, epochs: float, batch_size: int, measured: int = 2) -> float:
    """Seconds of `unlearn(retrain(...))` for all networks, from those measured."""
    request = Request(classifier, *classifier.init(jax.random.key(0), rows["x"][:1]), rows, rows, 10)
    begin = time.perf_counter()
    for m in range(measured):
        jax.block_until_ready(
            unlearn(retrain(epochs=epochs, batch_size=batch_size), request, key=jax.random.key(m)).params
        )
    return (time.perf_counter() - begin) / measured * members


def cpu_seconds(function, repeats: int) -> float:
    """Median CPU time over all threads, which other programs on the machine disturb less than the clock's."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        found.append(time.process_time() - begin)
    return float(np.median(found))


def main() -> None:
    """Time, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side, in turn")
    parser.add_argument("--out", type=pathlib.Path, help="also write the table as Markdown")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = {
        "x": rng.normal(size=(options.rows, SIDE, SIDE, 1)).astype(np.float32),
        "y": rng.integers(0, 10, options.rows).astype(np.int32),
    }
    lines = []
    for i, (what, build, batch_size, share) in enumerate(CASES):
        classifier, epochs = build(), options.epochs * share
        ensemble, loop = both_sides(classifier, rows, options.members, epochs, batch_size)
        short = both_sides(classifier, rows, options.members, 10 * batch_size / options.rows, batch_size)
        print(
            f"{what}: largest difference of a parameter {distance(short[0](), short[1]()):.1e} after 10 steps,"
            f" {distance(ensemble(), loop()):.1e} at the end (rounding, which training magnifies)"
        )
        found = interleaved({"ensemble": ensemble, "loop": loop}, repeats=options.repeats)
        ours, theirs = (cpu_seconds(function, options.repeats) for function in (ensemble, loop))
        print(f"  CPU time {ours:.2f} s beside {theirs:.2f} s: {theirs / ours:.1f} times less")
        lines.append((f"{what}, ensemble", "loop, compiled once", found["ensemble"], found["loop"], "≤ 0.2"))
        if i == 0:
            seconds = plain_calls(classifier, rows, options.members, epochs, batch_size)
            lines.append((f"{what}, ensemble", "unlearn(retrain()) each", found["ensemble"], seconds, ""))
    device = jax.devices()[0]
    title = f"{options.members} networks, {options.rows} rows, {options.epochs:g} epochs (CNN a tenth)"
    written = table(f"{title}, {device.device_kind} × {jax.device_count()}, jax {jax.__version__}", lines)
    if options.out:
        options.out.write_text(written)


if __name__ == "__main__":
    main()
