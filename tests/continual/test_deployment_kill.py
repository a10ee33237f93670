"""A deployment killed with SIGKILL at the worst moments ends with the bits and the ledger of one that was not."""

import json
import multiprocessing
import signal

import pytest
from continual import killed_deployment
from continual.small_stream import TIMES

from clujax.continual import ledger
from clujax.training.checkpoint import read_arrays


@pytest.fixture(scope="module")
def process():
    """Run the stream in a process of its own, which finds jax imported and no device taken."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clujax.continual.deployment", "clujax.models", "orbax.checkpoint"])

    def start(directory, moment):
        child = context.Process(target=killed_deployment.run, args=(directory, moment))
        child.start()
        child.join(120)
        return child.exitcode

    return start


def left_in(directory):
    """The arrays of the newest checkpoint by name, and the ledger but for its times."""
    arrays, _ = read_arrays(directory / "checkpoints", 5)
    lines = [json.loads(line) for line in (directory / "ledger.jsonl").read_text().splitlines()]
    return {name: leaf.tobytes() for name, leaf in arrays.items()}, [
        {name: value for name, value in line.items() if name not in TIMES} for line in lines
    ]


def test_kills_at_exact_moments_leave_no_trace(process, tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert process(calm, "never") == 0
    struck = 0
    for moment in killed_deployment.MOMENTS:
        assert process(killed, moment) == (0 if moment == "never" else -signal.SIGKILL), moment
        struck += moment != "never"
    assert struck == 6
    arrays, entries = left_in(killed)
    assert (arrays, entries) == left_in(calm)
    assert [entry["id"] for entry in entries][-1] == "back"
    assert ledger.verify(killed) == []
    assert not any((killed / "requests").iterdir())
