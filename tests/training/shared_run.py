"""The run that test_processes.py shares among processes and kills: a small network whose weights are split over devices.

Arguments: directory, steps, coordinator, processes, process, devices of each. Says on stdout when it asks for the batch of
a step, and at its end a digest of all bits of the state.
"""

import pathlib
import sys

import jax
import numpy as np
import optax

from clujax.training import (
    Checkpoints,
    Writer,
    fit,
    fsdp,
    init_state,
    make_mesh,
    make_train_step,
    processes,
    shard,
    tree_digest,
    watch,
    workdir,
)

HEARTBEAT, WAIT = 6, 60


def loss_fn(params, stats, batch, key):
    hidden = jax.nn.relu(batch["x"] @ params["first"]) * jax.random.bernoulli(key, 0.8, (16,))
    logits = hidden @ params["second"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), (stats, {})


def work(directory, steps):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 500).astype(np.int32)
    images = (rng.uniform(size=(8, 64))[labels] + 0.3 * rng.normal(size=(500, 64))).astype(np.float32)

    def batch_at(step):
        print(f"at {step}", flush=True)
        rows = np.random.default_rng(1000 + step).integers(0, 500, 32)
        return {"x": images[rows], "y": labels[rows]}

    keys = jax.random.split(jax.random.key(0), 3)
    params = {"first": jax.random.normal(keys[0], (64, 16)) / 8, "second": jax.random.normal(keys[1], (16, 8)) / 4}
    tx = optax.adamw(1e-2)
    mesh, rules = make_mesh((("data", 2), ("fsdp", -1))), ((".*", fsdp(min_size=0)),)
    state = shard(init_state(params, {}, tx, keys[2]), mesh, rules)
    step = make_train_step(loss_fn, tx, mesh=mesh, rules=rules)
    workdir.claim(directory, {"seed": 0, "steps": steps})
    with Checkpoints(directory / "checkpoints") as checkpoints, Writer(directory) as writer:
        state, history = fit(
            step, state, batch_at, steps, checkpoints=checkpoints, checkpoint_every=4, writer=writer, log_every=3
        )
    digest = tree_digest(processes.gathered(state))
    print("digest", digest, flush=True)
    workdir.write_result(directory, {"digest": digest, "last": history.records[-1], "start": history.start})
    return 0


def main(directory, steps, coordinator, count, process, devices):
    place = processes.find(coordinator, int(count), int(process))

    def joined():
        if place is None:
            jax.config.update("jax_num_cpu_devices", int(devices))
        else:
            processes.join(place, wait=WAIT, heartbeat=HEARTBEAT, cpu_devices=int(devices))
        return work(pathlib.Path(directory), int(steps))

    def explain(error):
        raise error

    return joined() if place is None else watch.watched(joined, explain, place, WAIT, HEARTBEAT)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
