"""Runs that several local processes share, for real: CPU collectives over sockets, one or two virtual devices each."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax import errors
from clujax.training import processes, watch
from clujax.training.checkpoint import committed

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path("tests/training/shared_config.py")
STEPS = 30
HEARTBEAT = 6  # as in shared_run.py
# Logs each file of the run that Python code opens to write, renames or makes.
AUDIT = """
import os, sys
def see(event, arguments):
    path = str(arguments[1 if event == "os.rename" else 0]) if arguments else ""
    writing = event in ("os.rename", "os.mkdir", "os.remove") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writing and path.startswith(os.environ["AUDITED"] + os.sep):
        os.write(log, (path + "\\n").encode())
log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(see)
"""


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start(words, name, devices=1, **environment):
    """One process in a group of its own, its output in the files `name`.out and `name`.err."""
    base = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    count = "--xla_force_host_platform_device_count="
    base["XLA_FLAGS"] = base["XLA_FLAGS"].replace(f"{count}8", f"{count}{devices}" if devices > 1 else "")
    base |= {"PYTHONPATH": str(ROOT)} | environment
    with open(f"{name}.out", "wb") as out, open(f"{name}.err", "wb") as err:
        command = [sys.executable, *map(str, words)]
        return subprocess.Popen(command, cwd=ROOT, env=base, stdout=out, stderr=err, start_new_session=True)


def ended(started, seconds=150):
    """Exit codes of processes, which must end in time; none is left behind."""
    try:
        return [process.wait(seconds) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def messages(name):
    """What `clujax run` itself said on stderr, beside warnings and the runtime's log."""
    return [line for line in pathlib.Path(f"{name}.err").read_text().splitlines() if line.startswith("clujax run:")]


def share_training(directory, name, count, devices):
    coordinator = f"127.0.0.1:{free_port()}"
    script = [ROOT / "tests" / "training" / "shared_run.py", directory, STEPS, coordinator, count]
    return [start([*script, i, devices], directory.parent / f"{name}{i}") for i in range(count)]


def kill_at(started, who, directory, name, step):
    """SIGKILL one process with its children when it asks for the batch of a step; exit codes of the others."""
    output = directory.parent / f"{name}{who}.out"
    while not any(line == f"at {step}" for line in output.read_text().splitlines()):
        assert started[who].poll() is None, (directory.parent / f"{name}{who}.err").read_text()[-2000:]
        time.sleep(0.01)
    os.killpg(started[who].pid, signal.SIGKILL)
    started[who].wait()
    return ended([process for i, process in enumerate(started) if i != who], HEARTBEAT + watch.MARGIN + 30)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A calm run of one process, and one that lost processes twice and went on with fewer; the exit codes of the losses."""
    place = tmp_path_factory.mktemp("training")
    calm, lost = place / "calm", place / "lost"
    alone = share_training(calm, "calm", 1, 4)
    worker = kill_at(share_training(lost, "worker", 4, 1), 2, lost, "worker", 10)
    assert ended(alone) == [0], (place / "calm0.err").read_text()[-2000:]
    *_, older, newest = committed(lost / "checkpoints")  # three, when the kill came before the oldest was deleted
    largest = max((lost / "checkpoints" / str(newest) / "state").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    coordinator = kill_at(share_training(lost, "coordinator", 2, 2), 0, lost, "coordinator", 20)
    assert ended(share_training(lost, "last", 1, 4)) == [0], (place / "last0.err").read_text()[-2000:]
    return place, worker, coordinator, (older, newest)


def test_a_dead_process_stops_the_others_with_one_message_that_names_it(training):
    place, codes, *_ = training
    assert codes == [watch.GONE] * 3
    for i in (0, 1, 3):
        (said,) = messages(place / f"worker{i}")
        assert f"process 2 gave no sign of life for {HEARTBEAT} s, so process {i} of 4 stopped too" in said
        assert "Give the same command again in all processes" in said


def test_a_dead_coordinator_stops_the_others_with_one_message_that_names_it(training):
    place, _, codes, _ = training
    assert codes == [watch.GONE]
    (said,) = messages(place / "coordinator1")
    assert "process 0, the coordinator at 127.0.0.1:" in said
    assert "is gone, so process 1 of 2 stopped too" in said


def test_a_run_that_lost_processes_goes_on_and_ends_with_the_bits_of_a_calm_one(training):
    place, _, _, (older, newest) = training
    calm, lost = (json.loads((place / name / "result.json").read_text()) for name in ("calm", "lost"))
    resumed = [line for line in (place / "coordinator1.out").read_text().splitlines() if line.startswith("at ")]
    assert resumed[0] == f"at {older}"  # from a checkpoint that four processes wrote, by two
    assert (place / "lost" / "checkpoints" / f"damaged-{newest}").is_dir()  # both passed over the newer one
    assert lost.pop("start") in (12, 16, 20)  # from one that two processes wrote, alone
    assert calm.pop("start") == 0
    assert lost["digest"] == calm["digest"]  # of parameters, averages and optimizer state
    # A mean over four devices may be summed in another order when they belong to one process.
    lines = [(place / name / "metrics.jsonl").read_text().splitlines() for name in ("calm", "lost")]
    assert len(lines[0]) == len(lines[1]) == len({json.loads(line)["step"] for line in lines[1]})
    for one, other in zip(*[[json.loads(line) for line in part] for part in lines]):
        assert one == pytest.approx(other, rel=1e-6)


@pytest.fixture(scope="module")
def unlearning(tmp_path_factory):
    """`clujax run` by one process with two devices and by two with one each, whose writes are logged."""
    place = tmp_path_factory.mktemp("unlearning")
    (place / "audit").mkdir()
    (place / "audit" / "sitecustomize.py").write_text(AUDIT)
    command, coordinator = ["-m", "clujax.cli", "run", CONFIG, "--workdir"], f"127.0.0.1:{free_port()}"
    both = [
        start(
            [*command, place / "shared", "--coordinator", coordinator, "--processes", 2, "--process", i],
            place / f"shared{i}",
            PYTHONPATH=f"{place / 'audit'}{os.pathsep}{ROOT}",
            AUDITED=str(place / "shared"),
            AUDIT_LOG=str(place / f"writes{i}"),
        )
        for i in range(2)
    ]
    assert ended(both) == [0, 0], (place / "shared1.err").read_text()[-3000:]
    alone = start([*command, place / "alone", "--processes", 1], place / "alone", devices=2)
    assert ended([alone]) == [0], (place / "alone.err").read_text()[-3000:]
    return place


def test_two_processes_have_the_bits_of_one_with_as_many_devices(unlearning):
    cells = sorted(path.relative_to(unlearning / "alone") for path in (unlearning / "alone").rglob("logits.npz"))
    assert len(cells) == 3
    for path in cells:
        with np.load(unlearning / "alone" / path) as alone, np.load(unlearning / "shared" / path) as shared:
            assert all(np.array_equal(alone[name], shared[name]) for name in alone.files), path
    alone, shared = (json.loads((unlearning / name / "result.json").read_text()) for name in ("alone", "shared"))
    assert alone["config_digest"] == shared["config_digest"]
    assert shared["device"].startswith("2 ×")
    compare(alone["requests"], shared["requests"])


def compare(one, other, path=""):
    """Equal up to the seconds that things took; networks of an ensemble are asked in another grouping, up to rounding."""
    if "seconds" in path or "RTE" in path or "compile" in path:
        return
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            compare(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other)):
            compare(*pair, f"{path}/{i}")
    elif "noise" in path and isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6), path
    else:
        assert one == other or (one != one and other != other), path


def test_only_the_first_process_writes(unlearning):
    written = [(unlearning / f"writes{i}").read_text().split("\n") for i in range(2)]
    of_checkpoints = lambda path: "/checkpoints/" in path or path.endswith("/checkpoints") or not path
    assert any(path.endswith(".part") for path in written[0])
    # Each process writes its own part of a checkpoint, and may make the folders on the way there.
    stray = [path for path in written[1] if not of_checkpoints(path) and not pathlib.Path(path).is_dir()]
    assert not stray
    assert "report:" in (unlearning / "shared0.out").read_text()
    assert "report:" not in (unlearning / "shared1.out").read_text()


def test_what_cannot_be_one_run_is_refused_at_the_start(tmp_path):
    """Two processes with different configs, and one whose coordinator is not there; at the same time, to save imports."""
    command = ["-m", "clujax.cli", "run", CONFIG, "--workdir", tmp_path / "run", "--processes", 2]
    coordinator, nobody = (f"127.0.0.1:{free_port()}" for _ in range(2))
    several = [
        start([*command, "--coordinator", coordinator, "--process", 0], tmp_path / "a"),
        start([*command, "--coordinator", coordinator, "--process", 1, "--log_every=7"], tmp_path / "b"),
        start([*command, "--coordinator", nobody, "--process", 1, "--join-seconds", 2], tmp_path / "c"),
    ]
    assert ended(several) == [2, 2, watch.GONE]
    for name in "ab":
        (said,) = messages(tmp_path / name)
        assert "all processes must have one config, but process 0 has" in said
    (said,) = messages(tmp_path / "c")
    assert f"process 1 of 2 could not reach the coordinator at {nobody} within 2 s" in said
    assert "firewall" in said
    assert not (tmp_path / "run").exists()


SLURM = {"SLURM_JOB_ID": "65536", "SLURM_STEP_NODELIST": "node[07-09]", "SLURM_NTASKS": "12", "SLURM_PROCID": "5"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", "OMPI_COMM_WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("environment", "given", "found"),
    [
        ({}, (), None),
        ({}, ("host:1", 2, 1), ("host:1", 2, 1, None)),
        ({"JAX_COORDINATOR_ADDRESS": "pod-0:8482"}, (None, 4, 3), ("pod-0:8482", 4, 3, None)),
        (SLURM | {"SLURM_LOCALID": "1"}, (), ("node07:61440", 12, 5, (1,))),
        (SLURM | {"SLURM_LOCALID": "1"}, (None, 1, None), None),
        (SLURM | {"SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, (), None),
        (
            OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            (),
            ("10.96.0.1:62624", 3, 2, (0,)),
        ),
    ],
)
def test_a_process_finds_its_place_by_what_is_given_or_by_its_cluster(monkeypatch, environment, given, found):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = processes.find(*given)
    assert (place and tuple(place)) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, 1), "give --coordinator HOST:PORT too"),
        (("host:1", None, None), "give --processes N, --process I too"),
        (("host:1", 2, 2), "a number from 0 to 1"),
        (("host", 2, 1), "expected HOST:PORT"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_what_to_give(monkeypatch, given, words):
    for name in ("KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.ConfigError, match=words):
        processes.find(*given)


def test_one_process_writes_and_decides_for_itself():
    tree = {"w": jnp.ones((8, 2)), "key": jax.random.key(0), "n": 3}
    whole = processes.gathered(tree)
    assert all(whole[name] is tree[name] for name in tree)  # nothing is copied
    assert processes.writes()
    assert processes.told({"a": 1}) == [{"a": 1}]
    assert processes.from_first(lambda: "decision") == "decision"
    with pytest.raises(errors.RequestError, match="no"):
        processes.from_first(lambda: (_ for _ in ()).throw(errors.RequestError("no")))
