"""A run preempted, and killed also in the middle of writing a checkpoint, ends with the bits of one that was not."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

from clujax.training.checkpoint import committed

STEPS = 161
ROOT = pathlib.Path(__file__).parents[2]


def start(directory):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "default"}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "training" / "killed_run.py"), str(directory), str(STEPS)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(directory.parent / f"{directory.name}.stderr").open("a"),
        text=True,
    )


def told_at(directory, step):
    """Start the run and send SIGTERM when it reaches a step; its exit status and the last step that it took."""
    process = start(directory)
    for line in process.stdout:
        last = int(line.removeprefix("at "))
        if last == step:
            process.send_signal(signal.SIGTERM)
    return process.wait(), last


def digest_of(process):
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0, lines[-5:]
    return lines[-1]


def unfinished(directory):
    return [p.name for p in (directory / "checkpoints").glob("*.orbax-checkpoint-tmp*")]


def kill_at(directory, step, while_writing):
    """Start the run and kill it when it reaches a step, or then as soon as it is writing a checkpoint."""
    process = start(directory)
    began = None
    for line in process.stdout:
        now = int(line.removeprefix("at ")) if line.startswith("at ") else STEPS
        began = now if began is None else began
        if now >= max(step, began + 1):
            break
    while while_writing and not unfinished(directory) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait()


def test_preempted_and_killed_runs_end_with_the_same_bits(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    seed = random.randrange(1 << 16)
    print(f"kill steps drawn with seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    reference = start(calm)
    status, last = told_at(killed, draw.randrange(2, 20))
    assert status == 143
    assert committed(killed / "checkpoints")[-1] == last + 1, "the step at hand was the last, and its state is saved"
    caught_writing = 0
    # First at any moment, twice while a checkpoint is being written; then as often as it takes to leave half of one.
    for attempt in range(8):
        if attempt >= 3 and caught_writing:
            break
        step = last + draw.randrange(2, 20) + 12 * attempt
        assert kill_at(killed, step, while_writing=attempt >= 1) == -signal.SIGKILL
        assert not (killed / "result.json").exists()
        caught_writing += bool(unfinished(killed))
    assert caught_writing
    assert digest_of(start(killed)) == digest_of(reference)
    results = [json.loads((d / "result.json").read_text()) for d in (calm, killed)]
    assert results[0] == results[1]
    metrics = [(d / "metrics.jsonl").read_text().splitlines() for d in (calm, killed)]
    assert metrics[0] == metrics[1]
    assert [json.loads(line)["step"] for line in metrics[1]] == [*range(0, STEPS, 3), STEPS - 1]
    warnings = (tmp_path / "killed.stderr").read_text()
    assert "(never completed); " in warnings
