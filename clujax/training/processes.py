"""Many processes, one run: joining them, and what they must do together.

Every process gives the same command and works on a directory that all of them share. All compute; process 0 writes.
"""

import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from clujax import errors
from clujax.errors import ConfigError

JOIN, HEARTBEAT = 300, 30  # seconds: for all processes to come; without a sign of life until a process counts as dead
# A process that is done waits so long for the others, of which process 0 still draws the report; a dead one is noticed
# by its heartbeats before.
SHUTDOWN = 600


class Place(NamedTuple):
    """Which process of how many this is, and where they meet; a process may be told to see some local devices only."""

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None


def find(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> Place | None:
    """The place of this process among many, from what is given and, for the rest, from the cluster that jax detects.

    jax knows TPU pods (GCE, GKE), Slurm, Open MPI and Kubernetes jobs, and reads JAX_COORDINATOR_ADDRESS.

    Args:
        coordinator: HOST:PORT at which process 0 listens.
        processes: how many there are; 1 asks nothing of the environment.
        process: number of this one, from 0.

    Returns:
        None when there is one process only.

    Raises:
        ConfigError: something is missing or does not fit, or the cluster cannot be asked.
    """
    if processes == 1 and not process:
        return None
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    given, local = (coordinator, processes, process), None
    if None in given:
        # jax has no public name for what jax.distributed.initialize finds out, and can be asked only once through it.
        from jax._src.clusters import ClusterEnv

        try:
            with warnings.catch_warnings():
                if "JOB_COMPLETION_INDEX" not in os.environ:  # jax tells every Kubernetes pod to install a package
                    warnings.simplefilter("ignore")
                *given, local = ClusterEnv.auto_detect_unset_distributed_params(*given, None, None, JOIN)
        except Exception as error:  # of a cluster's API or name service
            raise ConfigError(
                f"this looks like a cluster, but it does not say who takes part: {error}. Give --coordinator HOST:PORT "
                "--processes N --process I, or --processes 1 to run alone"
            ) from error
    names = ("--coordinator HOST:PORT", "--processes N", "--process I")
    missing = [name for name, value in zip(names, given, strict=True) if value is None]
    if len(missing) == len(names):
        return None
    if missing:
        raise ConfigError(f"many processes were asked for, but it is not known which: give {', '.join(missing)} too")
    coordinator, processes, process = given
    if not 0 <= process < processes:
        raise ConfigError(f"--process is {process} of {processes}; expected a number from 0 to {processes - 1}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--coordinator is {coordinator!r}; expected HOST:PORT, for example 10.0.0.1:8482")
    if processes == 1:  # of a cluster
        return None
    return Place(coordinator, processes, process, None if local is None else tuple(local))


def join(place: Place, *, wait: int = JOIN, heartbeat: int = HEARTBEAT, cpu_devices: int | None = None) -> None:
    """Join the other processes; before anything else that touches a device.

    When the others do not come within `wait` seconds, or later one gives no sign of life for `heartbeat` seconds, jax
    ends this process with SIGABRT; `clujax.training.watch` puts that into words.

    Args:
        place: of `find`.
        wait: seconds for all processes to come.
        heartbeat: seconds without a sign of life until a process counts as dead.
        cpu_devices: virtual CPU devices of this process.

    Raises:
        ConfigError: process 0 cannot listen at its address, or processes differ in their number of devices.
    """
    if cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    local = None if place.local_devices is None or "JAX_LOCAL_DEVICE_IDS" in os.environ else list(place.local_devices)
    try:
        jax.distributed.initialize(
            *place[:3],
            local_device_ids=local,
            cluster_detection_method="deactivate",
            initialization_timeout=wait,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"process {place.process} of {place.processes} could not meet the others at {place.coordinator}: {error}. "
            "Process 0 listens there: is the address its own, and the port free?"
        ) from error
    if jax.local_device_count() * jax.process_count() != jax.device_count():
        raise ConfigError(
            f"process {jax.process_index()} has {jax.local_device_count()} of {jax.device_count()} devices in "
            f"{jax.process_count()} processes; each must have as many as any other (--devices-per-process on CPU)"
        )


def writes() -> bool:
    """Whether this process writes files: the first does, and one that is alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    multihost_utils.sync_global_devices(name)


def told(value: Any) -> list:
    """What each process says, a JSON-able value, in the order of processes. All must ask."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    size = -(-longest // 256) * 256  # one program for most that is said
    rows = multihost_utils.process_allgather(np.pad(text, (0, size - len(text))))
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]


def from_first(function: Callable[[], Any]) -> Any:
    """What `function` gives in process 0, a JSON-able value, in all processes; the others do not call it.

    So all decide alike, whatever each would see of a shared file system at that moment.

    Raises:
        Whatever it raises in process 0; in the others an error of `clujax.errors` by that name, or a RuntimeError.
    """
    if jax.process_count() == 1:
        return function()
    value, kind, failure = None, None, None
    if writes():
        try:
            value = function()
        except Exception as error:
            kind, failure = type(error).__name__, error
    value, kind, said = told([value, kind, str(failure)])[0]
    if failure is not None:
        raise failure
    if kind is not None:
        raise getattr(errors, kind, RuntimeError)(f"{said} (in process 0)")
    return value


def check_same(**facts: str) -> None:
    """Refuse to go on unless every process says the same of each fact.

    Raises:
        ConfigError: in all processes, naming the first fact that differs and who says what.
    """
    every = told(facts)
    for name in facts:
        if len({each.get(name) for each in every}) > 1:
            listed = "; ".join(f"process {i} has {each.get(name)}" for i, each in enumerate(every))
            raise ConfigError(f"all processes must have one {name}, but {listed}. Give the same command in all")


def gathered(tree: PyTree) -> PyTree:
    """A tree that this process can read whole: arrays that lie on other processes' devices too come to the host.

    All processes must ask together. Other leaves stay as they are, so a run of one process pays nothing.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


def put(tree: PyTree, layout: PyTree) -> PyTree:
    """`jax.device_put`, also onto devices of other processes: each gives the same values and lays out its own part.

    (jax's own compares values over processes first, which moves a data set once for each, and takes no typed keys.)
    """

    def one(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(layout)):
        return jax.device_put(tree, layout)
    return jax.tree.map(one, tree, layout)


def versions() -> dict[str, str]:
    """What must agree for two processes to compile the same programs."""
    return {f"version of {name}": importlib.metadata.version(name) for name in ("clujax", "jax", "jaxlib")}
