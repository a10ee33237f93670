"""What test_elastic.py runs in two processes of two devices each. Arguments: process, port, directory.

Prints a line of JSON for each thing found; test_elastic.py holds the expectations.
"""

import faulthandler
import json
import pathlib
import sys
import warnings

import jax
from jax.experimental import multihost_utils
from training import elastic

from clujax.training import Checkpoints, Preempted, fit, make_mesh


def say(**found):
    print(json.dumps(found), flush=True)


def come_back(mesh, directory):
    """A checkpoint that one process left comes back in two, and goes on."""
    with Checkpoints(directory) as checkpoints:
        state = elastic.run(mesh, checkpoints, elastic.STEPS)
    say(params=multihost_utils.process_allgather(state.params, tiled=True)["w1"].tolist())


def pass_over(mesh, directory):
    """A damaged newest checkpoint is passed over by both."""
    state = elastic.fresh_on(mesh)
    with Checkpoints(directory, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state._replace(step=state.step + step))
        checkpoints.wait()
        if jax.process_index() == 0:
            files = [path for path in (directory / "3" / "state").rglob("*") if path.is_file()]
            largest = max(files, key=lambda path: path.stat().st_size)
            content = bytearray(largest.read_bytes())
            content[len(content) // 2] ^= 4
            largest.write_bytes(content)
        multihost_utils.sync_global_devices("damaged")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step, back, _ = checkpoints.restore(state)
    say(step=step, inside=int(back.step), warned=[str(w.message) for w in seen if "passed over" in str(w.message)])


def stop(mesh, directory):
    """A run that goes on until it is told to stop."""
    asked, inner = [], elastic.batches(mesh)

    def batch_at(step):
        asked.append(step)
        if step == 20:
            say(at=step)
        return inner(step)

    with Checkpoints(directory) as checkpoints:
        try:
            fit(elastic.make_step(mesh), elastic.fresh_on(mesh), batch_at, 10**6, checkpoints=checkpoints, log_every=10)
        except Preempted as told:
            say(stopped=told.step, last=asked[-1], saved=checkpoints.steps()[-1])


if __name__ == "__main__":
    faulthandler.dump_traceback_later(90, exit=True)  # when the other one is gone, it would wait for ever
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{sys.argv[2]}", num_processes=2, process_id=int(sys.argv[1]))
    both, place = make_mesh((("fsdp", 2), ("data", 2))), pathlib.Path(sys.argv[3])
    come_back(both, place / "from_one")
    pass_over(both, place / "damaged")
    stop(both, place / "preempted")
    jax.distributed.shutdown()
