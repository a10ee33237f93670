"""A run that was stopped comes back on another mesh and another number of processes, and goes on alike."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from training import elastic

from clujax.training import Checkpoints, abstract, make_mesh

ROOT = pathlib.Path(__file__).parents[2]
# Sums over the batch are taken in another order on another mesh, which 24 steps make this much of in float32.
TOLERANCE = 2e-5


def mesh_of(count, axis="fsdp"):
    return make_mesh(((axis, count),), devices=jax.devices()[:count])


def plain(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def undisturbed():
    return plain(elastic.run(None, None, elastic.STEPS))


@pytest.mark.parametrize(
    "meshes",
    [
        [mesh_of(8), mesh_of(2), mesh_of(4)],
        [mesh_of(8, "data"), mesh_of(4), None, mesh_of(8)],
        [make_mesh((("data", 2), ("fsdp", 4))), mesh_of(2, "data"), make_mesh((("model", 8),))],
    ],
)
def test_it_goes_on_alike_on_other_meshes(tmp_path, undisturbed, meshes):
    for leg, mesh in enumerate(meshes, 1):
        with Checkpoints(tmp_path) as checkpoints:
            state = elastic.run(mesh, checkpoints, elastic.STEPS * leg // len(meshes))
    chex.assert_trees_all_close(plain(state), undisturbed, rtol=TOLERANCE, atol=TOLERANCE)
    momentum, mask = state.opt_state[0][0].trace["w1"], state.opt_state[1]["w1"]
    assert momentum.sharding.is_equivalent_to(state.params["w1"].sharding, 2)
    assert mask.dtype == bool
    assert str(jax.random.key_impl(state.key)) == "rbg"


def test_restoring_changes_the_layout_and_no_bit(tmp_path):
    state = elastic.run(mesh_of(8), None, 5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        for mesh in (mesh_of(2), mesh_of(4, "data"), make_mesh((("model", 4), ("fsdp", 2)))):
            like = elastic.fresh_on(mesh)
            _, back, _ = checkpoints.restore(abstract(like))
            chex.assert_trees_all_equal(plain(back), plain(state))
            layouts = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), back, like)
            assert all(jax.tree.leaves(layouts))


def test_steps_that_are_kept_for_ever(tmp_path):
    with Checkpoints(tmp_path, keep=2, keep_every=10) as checkpoints:
        for step in (0, 4, 10, 14, 18, 20, 21, 23):
            checkpoints.save(step, {"w": np.arange(3.0)})
        checkpoints.wait()
        assert checkpoints.steps() == [0, 10, 20, 21, 23]


def said_by(process):
    return (json.loads(line) for line in process.stdout if line.startswith("{"))  # gloo talks too


def test_two_processes(tmp_path, undisturbed, unused_port):
    with Checkpoints(tmp_path / "from_one") as checkpoints:
        elastic.run(mesh_of(8), checkpoints, 11)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    script = str(ROOT / "tests" / "training" / "two_processes.py")
    errors = [(tmp_path / f"stderr{index}").open("w") for index in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(index), str(unused_port), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors[index],
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        lines = [[], []]
        for line in said_by(processes[1]):
            lines[1].append(line)
            if lines[1][-1].get("at") == 20:
                processes[1].send_signal(signal.SIGTERM)
        lines[0] = list(said_by(processes[0]))
        status = [process.wait(60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = "\n".join((tmp_path / f"stderr{index}").read_text()[-3000:] for index in (0, 1))
    assert status == [0, 0], said
    found = [{name: value for line in side for name, value in line.items()} for side in lines]

    np.testing.assert_allclose(found[0]["params"], undisturbed.params["w1"], rtol=TOLERANCE, atol=TOLERANCE)
    assert [(side["step"], side["inside"]) for side in found] == [(2, 2), (2, 2)]
    assert found[0]["params"] == found[1]["params"]
    assert re.search(r"passed over 3 \(.*is not as it was written\); using step 2", found[0]["warned"][0])
    assert found[1]["warned"] == []
    stopped = found[0]["stopped"]
    assert [(side["stopped"], side["last"], side["saved"]) for side in found] == [(stopped, stopped - 1, stopped)] * 2

    with Checkpoints(tmp_path / "preempted") as checkpoints:  # what two left goes on in one, on another mesh
        step, state, _ = checkpoints.restore(elastic.fresh_on(mesh_of(8, "data")))
    assert step == stopped == int(state.step)
    with Checkpoints(tmp_path / "from_one") as checkpoints:
        state = elastic.run(mesh_of(4), checkpoints, elastic.STEPS + 1)
    alone = elastic.run(None, None, elastic.STEPS + 1)
    chex.assert_trees_all_close(plain(state), plain(alone), rtol=TOLERANCE, atol=TOLERANCE)
