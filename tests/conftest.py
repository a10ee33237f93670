"""Eight virtual devices, the persistent compilation cache, and markers shared by all tests."""

import functools
import gc
import importlib.metadata
import os
import pathlib

# The older of the two code generators compiles in 60 % of the time. A flag that XLA does not know ends the process.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else "",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tests compile far more than they compute.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest

# Files of half a minute and more, the longest first: begun early, none is left for one worker at the end.
LONG = (
    "training/test_processes.py",
    "unlearning/test_experiment.py",
    "unlearning/test_scenarios.py",
    "training/test_mesh_shapes.py",
    "unlearning/test_metrics.py",
    "continual/test_experiment.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the long files, the others in their order."""
    root = pathlib.Path(__file__).parent
    place = lambda item: str(item.path.relative_to(root)) if item.path.is_relative_to(root) else ""
    items.sort(key=lambda item: LONG.index(place(item)) if place(item) in LONG else len(LONG))


def pytest_runtest_setup(item):
    """Skip a test marked `needs_data(name)` with the resolver's message when that set is not on this machine."""
    for marker in item.iter_markers("needs_data"):
        reason = missing_data(marker.args[0])
        if reason:
            pytest.skip(reason)


@functools.cache
def missing_data(name):
    """The resolver's message, "" when the set is here; a damaged one is no reason to skip."""
    from clujax.data import load
    from clujax.data.files import DamagedDataError
    from clujax.errors import DataNotFoundError

    try:
        load(name)
    except DamagedDataError:
        raise
    except DataNotFoundError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Let go of compiled programs before a worker has more than Linux lets it map.

    Each program of the CPU backend takes some of the 65,530 maps of a process (vm.max_map_count); beyond them LLVM dies with
    a segmentation fault. A worker of this suite would need more.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
