"""A run that is killed and preempted at drawn steps and comes back on fewer devices each time, against undisturbed ones.

Command: python experiments/elastic_restart.py [--workdir runs/elastic_restart] [--write docs/results/pods_restart.md]
Time:    about 2 minutes on two cores
Result:  the run ends as near to an undisturbed one on 8 devices as that is to one on 1 device

The digits that the package `mnist` of `clujax[data]` brings, an MLP trained with FSDP, virtual CPU devices: 8 at first,
then 2, 4 and 1. Legs end by SIGKILL, SIGTERM, SIGKILL again, and by being done.
"""

import argparse
import datetime
import os
import pathlib
import random
import signal
import subprocess
import sys
from typing import NamedTuple

STEPS, EVERY, BATCH = 600, 40, 128
LEGS = ((8, signal.SIGKILL), (2, signal.SIGTERM), (4, signal.SIGKILL), (1, None))


class Leg(NamedTuple):
    """One start of the run: its devices, the steps it took, how it ended, and seconds of its last save."""

    devices: int
    first: int
    last: int
    ending: str
    save_seconds: float


def train(directory: pathlib.Path, rate: float) -> None:
    """One leg on the devices that are here; says each step that it asks for, and writes its last parameters."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from clujax import data, training
    from clujax.models import mlp

    mesh = training.make_mesh((("fsdp", -1),))
    train_rows, classifier = data.load("mnist").train, mlp(10)
    tx = optax.sgd(optax.cosine_decay_schedule(rate, STEPS), momentum=0.9)

    def loss_fn(params, stats, batch, key):
        logits, stats = classifier.apply(params, stats, batch["x"].astype(jnp.float32) / 255, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), (stats, {})

    def born(key):
        params, stats = classifier.init(key, jnp.zeros((1, *train_rows["x"].shape[1:])))
        return training.init_state(params, stats, tx, key)

    key = jax.random.key(0)
    state = jax.jit(born, out_shardings=training.shardings(jax.eval_shape(born, key), mesh))(key)
    rows = {name: train_rows[name] for name in ("x", "y")}
    feed = data.feed(rows, BATCH, jax.random.key(1), sharding=training.batch_sharding(mesh))

    def batch_at(step):
        print(f"at {step} {checkpoints.save_seconds or 0}", flush=True)
        return feed(step)

    with training.Checkpoints(directory / "checkpoints") as checkpoints:
        step = training.make_train_step(loss_fn, tx, mesh=mesh)
        try:
            state, _ = training.fit(step, state, batch_at, STEPS, checkpoints=checkpoints, checkpoint_every=EVERY)
        finally:
            print(f"saved {checkpoints.save_seconds}", flush=True)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(state.params))])
    np.save(directory / "params.npy", flat)


def leg(directory: pathlib.Path, rate: float, devices: int, end: signal.Signals | None = None, after: int = 0) -> Leg:
    """Start the run on some devices, and end it once it has taken `after` steps there."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, __file__, "--train", str(directory), "--rate", str(rate)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    steps, seconds = [], 0.0
    for line in process.stdout:
        word, *numbers = line.split()
        seconds = float(numbers[-1]) or seconds
        if word == "at":
            steps.append(int(numbers[0]))
            if end is not None and len(steps) == after:
                process.send_signal(end)
    status, name = process.wait(), "done" if end is None else end.name
    if status != {None: 0, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[end]:
        raise SystemExit(f"the leg on {devices} devices ended with status {status}")
    return Leg(devices, steps[0], steps[-1], f"{name}, status {status}", seconds)


def distance(one: pathlib.Path, other: pathlib.Path) -> float:
    """Norm of the difference of two runs' parameters, relative to the norm of the second's."""
    import numpy as np

    ours, theirs = (np.load(each / "params.npy") for each in (one, other))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> None:
    """Carry it out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/elastic_restart"))
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0, help="of the steps at which legs end")
    parser.add_argument("--rate", type=float, default=0.02)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.rate)
        return
    if options.workdir.exists():
        parser.error(f"{options.workdir} is there already; give another --workdir or remove it")
    moved, calm, alone, again = (options.workdir / name for name in ("moved", "calm-8", "calm-1", "calm-8-again"))
    for directory in (moved, calm, alone, again):
        directory.mkdir(parents=True)
    draw = random.Random(options.seed)
    legs = [leg(moved, options.rate, devices, end, draw.randrange(60, 200)) for devices, end in LEGS]
    for directory, devices in ((calm, 8), (again, 8), (alone, 1)):
        leg(directory, options.rate, devices)
    distances = {
        "the run that moved, to undisturbed on 8 devices": distance(moved, calm),
        "undisturbed on 1 device, to undisturbed on 8": distance(alone, calm),
        "undisturbed on 8 devices once more, to itself": distance(again, calm),
    }
    text = report(legs, distances, options)
    print(text)
    if options.write:
        options.write.write_text(text)


def report(legs: list[Leg], distances: dict[str, float], options: argparse.Namespace) -> str:
    """The result as Markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    import jax

    lines = [
        "# A run that comes back on whatever is free",
        "",
        f"`python experiments/elastic_restart.py --seed {options.seed} --rate {options.rate} "
        f"--write docs/results/pods_restart.md`, commit {commit}, "
        f"{os.cpu_count()} CPU cores as virtual devices, jax {jax.__version__}, {datetime.date.today():%d %B %Y}.",
        "",
        f"MNIST digits, MLP 784-256-128-10, FSDP, SGD with momentum, batch {BATCH}, {STEPS} steps, a checkpoint every "
        f"{EVERY}. Ended at drawn steps: SIGKILL loses what followed the last checkpoint, SIGTERM nothing.",
        "",
        "| leg | devices | steps taken | ended by | seconds of the last save |",
        "|---:|---:|---|---|---:|",
    ]
    for number, each in enumerate(legs, 1):
        lines.append(
            f"| {number} | {each.devices} | {each.first}–{each.last} | {each.ending} | {each.save_seconds:.2f} |"
        )
    lines += ["", "| relative distance of the last parameters | |", "|---|---:|"]
    lines += [f"| {name} | {value:.1e} |" for name, value in distances.items()]
    lines += [
        "",
        "The sums over a batch are taken in another order on another number of devices, and that is all that differs. A "
        "rate of 0.1 (`--rate 0.1`) amplifies such rounding in the first hundred steps: two undisturbed runs, on 1 device "
        "and on 8, then end 4e-2 apart.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
