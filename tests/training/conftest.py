import resource
import signal
import socket
import subprocess

import jax
import pytest


@pytest.fixture
def compilations():
    """`compilations()` is the number of XLA compilations so far, those served by the persistent cache included."""
    count = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            count.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(count)
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def unused_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(params=["mounted", "limited"])
def small_disk(request, tmp_path):
    """A place where some 300 kB can be written and no more: a small file system, or a limit on the size of files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if request.param == "mounted":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"mounting needs rights that this user has not: {mounted.stderr.decode().strip()}")
        yield disk, "the disk is full"
        subprocess.run(["umount", "-l", disk], check=True)
    else:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        yield disk, "could not be written"
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
