"""What a UG-CLU cycle and the memory cost beside plain training, and what a stream compiles, in one process.

Command: python benchmarks/continual.py [--out FILE.md]
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import Runner, interleaved, table

from clujax.adaptation.losses import descend
from clujax.continual import memory as memories
from clujax.continual.method import Scene, begin, carry_out
from clujax.continual.methods import ug_clu
from clujax.continual.request import Change, Request, check_request, standing_after
from clujax.data import resident
from clujax.models import cnn, mlp
from clujax.training import init_state, make_train_step
from clujax.training.compiling import compilations

REPAIR, BATCH, ROWS, CAPACITY = 5, 128, 8000, 500
MODELS = {"mlp": (lambda: mlp(10), (28, 28, 1)), "cnn": (lambda: cnn(10), (28, 28, 1))}


def make_scene(name: str) -> Scene:
    """Random rows: the cost does not depend on what they show."""
    build, shape = MODELS[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(ROWS, *shape)), jnp.float32)
    return Scene(build(), {"x": x, "y": jnp.asarray(np.arange(ROWS) % 10, jnp.int32)}, 10)


def cycle_row(name: str, replay: str) -> tuple:
    """A cycle (forget, T times learn and remain) beside as many plain steps over the same rows."""
    scene = make_scene(name)
    method = ug_clu(steps=10**6, repair=REPAIR, batch_size=BATCH, replay=replay)
    rules = method.build(scene)
    params, stats = scene.classifier.init(jax.random.key(0), scene.columns["x"][:1])
    memory = memories.empty(CAPACITY, scene.columns, 10)
    kept = np.arange(2000, 6000)
    memory = memories.insert_rows(memory, scene.columns, kept, jax.random.key(1))
    learner = begin(scene, rules, params, stats, memory)
    change = Change(np.arange(6000, 8000), np.arange(1000), kept)
    (phase,) = rules.phases(learner, change)
    plan = phase.prepare(learner, jax.random.key(2))

    def cycle(state, count):
        for s in range(count * REPAIR, (count + 1) * REPAIR):
            for step, batch in plan.work(s):
                state, _ = plan.steps[step](state, batch)
        return state

    tx = optax.chain(
        optax.add_decayed_weights(5e-4),
        optax.trace(0.9),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.02, 10**6)),
    )
    step = make_train_step(descend(scene.bare), tx)
    batch_at = resident({key: scene.columns[key][kept] for key in "xy"}, BATCH, jax.random.key(3))
    steps = 1 + 2 * REPAIR

    def plain(state, count):
        for s in range(count * steps, (count + 1) * steps):
            state, _ = step(state, batch_at(s))
        return state

    start = lambda tx: init_state(params, stats, tx, jax.random.key(4))
    runners = {"cycle": Runner(start(plan.tx), cycle), "plain": Runner(start(tx), plain)}
    found = interleaved(runners, repeats=101 if name == "mlp" else 21)
    return (
        f"{name}: UG-CLU cycle, T = {REPAIR}, {replay}",
        f"{steps} SGD steps",
        found["cycle"],
        found["plain"],
        "≤ 1.05",
    )


def memory_rows() -> list:
    """Memory operations beside one training step of the MLP."""
    scene = make_scene("mlp")
    step = make_train_step(descend(scene.bare), optax.sgd(0.02, 0.9))
    batch = {key: column[:BATCH] for key, column in scene.columns.items()}
    params, stats = scene.classifier.init(jax.random.key(0), scene.columns["x"][:1])
    plain = Runner(init_state(params, stats, optax.sgd(0.02, 0.9), jax.random.key(1)), lambda s, i: step(s, batch)[0])
    rows, gone = np.arange(2000), np.arange(ROWS) % 10 == 0
    full = memories.insert_rows(memories.empty(CAPACITY, scene.columns, 10), scene.columns, rows, jax.random.key(2))
    keys = iter(jax.random.split(jax.random.key(3), 10**4))
    found = interleaved(
        {
            "step": plain,
            "sample": lambda: jax.block_until_ready(memories.sample(full, next(keys), BATCH)),
            "purge": lambda: jax.block_until_ready(memories.purge(full, gone)),
            "insert": lambda: jax.block_until_ready(memories.insert_rows(full, scene.columns, rows + 2000, next(keys))),
        }
    )
    beside = f"training step, B = {BATCH}"
    what = {"sample": f"draw {BATCH} rows", "purge": "purge", "insert": "offer 2,000 rows (reservoir)"}
    return [(f"memory of {CAPACITY}: {told}", beside, found[key], found["step"], "") for key, told in what.items()]


def compiled_by_requests() -> str:
    """Programs compiled by each request of a stream whose requests have other numbers of rows each time."""
    scene = make_scene("mlp")
    rules = ug_clu(steps=10, batch_size=BATCH).build(scene)
    params, stats = scene.classifier.init(jax.random.key(0), scene.columns["x"][:1])
    learner = begin(scene, rules, params, stats, memories.empty(CAPACITY, scene.columns, 10))
    status, counts = np.zeros(ROWS, np.int8), []
    requests = [
        Request(np.arange(0, 1000)),
        Request(np.arange(1000, 2100), np.arange(0, 90)),
        Request((), np.arange(100, 310)),
        Request(np.arange(2100, 2555)),
        Request(np.arange(3000, 4234), np.arange(1000, 1777)),
        Request((), np.arange(2200, 2222)),
        Request(np.arange(5000, 7777)),
    ]
    with compilations() as compiled:
        for i, request in enumerate(requests):
            before, change = compiled(), check_request(request, status)
            learner = carry_out(scene, rules, learner, change, jax.random.key(i)).learner
            status = standing_after(status, change)
            counts.append(compiled() - before)
    return ", ".join(map(str, counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, help="write the tables as Markdown here too")
    out = parser.parse_args().out
    cycles = [cycle_row("mlp", "memory"), cycle_row("mlp", "remain"), cycle_row("cnn", "memory")]
    text = table("UG-CLU beside plain training", cycles) + "\n" + table("Memory", memory_rows())
    told = f"Programs compiled by the seven requests of a stream, in order: {compiled_by_requests()}"
    print(told)
    if out:
        out.write_text(f"{text}\n{told}\n")


if __name__ == "__main__":
    main()
