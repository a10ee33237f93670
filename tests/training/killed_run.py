"""The run that test_kill.py kills: a small MLP with dropout on digit-like images. Arguments: directory, steps.

Says on stdout when it asks for the batch of a step, and at its end a digest of all bits of the state.
"""

import hashlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.training import Checkpoints, Writer, fit, init_state, make_train_step, workdir


def loss_fn(params, stats, batch, key):
    hidden = jax.nn.relu(batch["x"] @ params["first"]) * jax.random.bernoulli(key, 0.8, (16,))
    logits = hidden @ params["second"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, (stats, {"accuracy": (logits.argmax(-1) == batch["y"]).mean()})


def main(directory, steps):
    rng = np.random.default_rng(0)
    prototypes = rng.uniform(size=(10, 64))
    labels = rng.integers(0, 10, 500).astype(np.int32)
    images = (prototypes[labels] + 0.3 * rng.normal(size=(500, 64))).astype(np.float32)

    def batch_at(step):
        print(f"at {step}", flush=True)
        rows = np.random.default_rng(1000 + step).integers(0, 500, 32)
        return {"x": images[rows], "y": labels[rows]}

    keys = jax.random.split(jax.random.key(0), 3)
    params = {"first": jax.random.normal(keys[0], (64, 16)) / 8, "second": jax.random.normal(keys[1], (16, 10)) / 4}
    tx = optax.adamw(1e-2)
    workdir.claim(directory, {"seed": 0, "steps": steps})
    with Checkpoints(directory / "checkpoints") as checkpoints, Writer(directory) as writer:
        state, history = fit(
            make_train_step(loss_fn, tx),
            init_state(params, {"unused": jnp.zeros(2)}, tx, keys[2]),
            batch_at,
            steps,
            checkpoints=checkpoints,
            checkpoint_every=4,
            writer=writer,
            log_every=3,
        )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))):
        digest.update(np.asarray(leaf).tobytes())
    print("digest", digest.hexdigest(), flush=True)
    workdir.write_result(directory, {"digest": digest.hexdigest(), "last": history.records[-1]})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
