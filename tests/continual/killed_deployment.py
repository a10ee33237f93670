"""The process that test_deployment_kill.py starts: the small stream, served until it is killed at one exact moment."""

import os
import signal

import jax
from continual import small_stream

from clujax.continual import method
from clujax.continual.ledger import Ledger, to_line
from clujax.training import Checkpoints


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def in_training(batches):
    """When it asks for so many batches."""
    rows_at, asked = method.rows_at, []

    def counting(*args, **kwargs):
        batch_at = rows_at(*args, **kwargs)

        def counted(step):
            asked.append(step)
            if len(asked) == batches:
                kill()
            return batch_at(step)

        return counted

    method.rows_at = counting


def in_checkpoint(folder, step):
    """When all of a checkpoint is written, and before the rename that makes it one."""
    write_sums = Checkpoints._write_sums

    def struck(self):
        write_sums(self)
        if folder in self.directory.parts and self._writing == step:
            kill()

    Checkpoints._write_sums = struck


def in_ledger(number, part):
    """When so much of an entry's line is written: 0 (its checkpoint is whole), 0.5, or 1."""
    append = Ledger.append

    def struck(self, entry):
        if entry.number != number:
            return append(self, entry)
        line = to_line(entry)
        with self.path.open("a") as file:
            file.write(line[: round(part * len(line))])
        kill()

    Ledger.append = struck


MOMENTS = {
    "training": lambda: in_training(4),
    "checkpointing inside a request": lambda: in_checkpoint("requests", 4),
    "checkpointing what a request made": lambda: in_checkpoint("checkpoints", 1),
    "committed and not yet recorded": lambda: in_ledger(2, 0),
    "writing the line of an applied request": lambda: in_ledger(4, 0.5),
    "the line is written": lambda: in_ledger(5, 1),
    "never": lambda: None,
}


def run(directory, moment):
    # Every program is compiled by the first of these processes and read by the others.
    jax.config.update("jax_compilation_cache_dir", str(directory.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    MOMENTS[moment]()
    scene = small_stream.scene()
    rules = small_stream.rules(scene)
    with small_stream.deploy(directory, scene=scene, rules=rules, checkpoint_every=2) as deployment:
        for request in small_stream.STREAM:
            deployment.apply(request)
