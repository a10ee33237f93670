"""Slices by name, their devices though they are not here, and a mesh whose axes follow the torus."""

import contextlib
import difflib
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from clujax.errors import ConfigError
from clujax.planning import chips
from clujax.training import make_mesh

# Slices that Google Cloud offers; of the chips with a 3-D torus every shape of whole 4×4×4 cubes beside these.
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
    (4, 4, 4),
    (4, 4, 8),
    (4, 8, 8),
    (8, 8, 8),
    (8, 8, 16),
    (8, 16, 16),
)
OFFERED = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}


class Topology(NamedTuple):
    """What to compile for: `v5e:16x16`, `2*v5e:16x16` (slices joined by the data-centre network), `cpu:8`, `local`."""

    kind: str
    dims: tuple[int, ...] = ()
    slices: int = 1

    def __str__(self) -> str:
        """The text that `parse` reads."""
        front = f"{self.slices}*" if self.slices > 1 else ""
        return front + self.kind + (":" + "x".join(map(str, self.dims)) if self.dims else "")

    @property
    def tpu(self) -> bool:
        """Whether the TPU compiler is asked."""
        return self.kind in OFFERED


def parse(text: str) -> Topology:
    """Read a topology.

    Raises:
        ConfigError: there is none of that name; the nearest one is named.

    Example:
        >>> parse("v5e:4x4"), str(parse("2*v5p:4x4x8"))
        (Topology(kind='v5e', dims=(4, 4), slices=1), '2*v5p:4x4x8')
    """
    found = re.fullmatch(r"(?:([1-9]\d*)\*)?([a-z]\w*)(?::(\d+(?:x\d+)*))?", text.strip())
    if found:
        slices, kind = int(found[1] or 1), found[2]
        dims = tuple(int(extent) for extent in (found[3] or "").split("x") if extent)
        if kind == "local" and not dims and slices == 1:
            return Topology(kind)
        if kind == "cpu" and len(dims) == 1 and dims[0] > 0 and slices == 1:
            return Topology(kind, dims)
        whole_cubes = len(dims) == 3 and all(extent and extent % 4 == 0 for extent in dims)
        if kind in OFFERED and (dims in OFFERED[kind] or (OFFERED[kind] is _CUBES and whole_cubes)):
            return Topology(kind, dims, slices)
    raise ConfigError(
        f"unknown topology {text!r}: did you mean {_nearest(text)!r}? Write CHIP:DIMENSIONS, e.g. v5e:4x4 or "
        f"v5p:4x4x8 (chips: {', '.join(OFFERED)}), 2*v5e:4x4 for two slices, cpu:8 for virtual CPU devices, or "
        f"'local' for the devices here. {_offered(text)}"
    )


def prepare(wanted: Sequence[Topology]) -> None:
    """Set what jax reads before it looks for devices; without effect on a setting that the user has made.

    The TPU compiler needs no TPU; without these a machine that has none would be asked for one, for minutes.
    """
    for key, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_MIN_LOG_LEVEL", "3"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
        (
            "TPU_ACCELERATOR_TYPE",
            "v5litepod-4",
        ),  # of no effect on what is compiled; else stderr says that it is missing
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # the compiler alone takes no chip, so no process keeps another out
    ):
        if any(each.tpu for each in wanted):
            os.environ.setdefault(key, value)
    if not any(each.kind == "local" for each in wanted) and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")
    virtual = max((each.dims[0] for each in wanted if each.kind == "cpu"), default=0)
    if virtual and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # jax has its devices already; `devices` says whether they are enough
            jax.config.update("jax_num_cpu_devices", virtual)


def devices(topology: Topology) -> list[jax.Device]:
    """The devices of a topology, here or only described.

    Raises:
        ConfigError: the TPU compiler is not installed (the message has the command), does not know the slice, or there
            are fewer CPU devices than asked for.
    """
    if topology.kind == "local":
        return jax.devices()
    if topology.kind == "cpu":
        here = jax.devices("cpu")
        if len(here) < topology.dims[0]:
            raise ConfigError(
                f"topology {topology}: jax has {len(here)} CPU devices already; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.dims[0]} before it starts"
            )
        return here[: topology.dims[0]]
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"topology {topology} needs the TPU compiler, which is not installed (no TPU is needed): "
            f'pip install "clujax[tpu-plan]" (or pip install "{_requirement()}")'
        )
    settings = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}  # one device a chip, as on v5p
    if topology.slices > 1:
        settings["num_slices"] = topology.slices
    if math.prod(topology.dims) == 1:
        settings["chips_per_host_bounds"] = (1, 1, 1)
    name = f"{topology.kind}:{'x'.join(map(str, topology.dims))}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **settings).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"topology {topology}: the TPU compiler does not know it: {error}") from error


def mesh(axes: Sequence[tuple[str, int]], on: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """Lay devices out on named axes so that each axis runs along the torus where it can, the first across slices.

    Raises:
        ConfigError: as `clujax.training.make_mesh`, or the first axis does not divide by the number of slices.
    """
    indices = [getattr(device, "slice_index", None) or 0 for device in on]
    slices = len(set(indices))
    if slices == 1 or not axes:
        return make_mesh(axes, on)
    (name, extent), *rest = axes
    if extent != -1 and extent % slices:
        raise ConfigError(
            f"mesh {tuple(axes)}: its first axis runs across the {slices} slices; give it a multiple of them"
        )
    inner = ((name, extent if extent == -1 else extent // slices), *rest)
    parts = [make_mesh(inner, [d for d, i in zip(on, indices) if i == each]) for each in sorted(set(indices))]
    grid = np.concatenate([part.devices for part in parts])
    return jax.sharding.Mesh(grid, parts[0].axis_names, axis_types=parts[0].axis_types)


def one_slice(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The part of a mesh of `mesh` that lies in its first slice."""
    slices = len({getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat})
    return jax.sharding.Mesh(mesh.devices[: len(mesh.devices) // slices], mesh.axis_names)


def wrapped(topology: Topology) -> tuple[bool, ...]:
    """Which dimensions of a slice's torus are closed: v5e and v6e where 16 long, v4 and v5p in slices of whole cubes."""
    if not topology.tpu:
        return ()
    chip = chips.named(topology.kind)
    closed = [extent % chip.wraps == 0 for extent in topology.dims]
    return tuple(closed) if chip.torus == 2 else (all(closed),) * len(closed)


def _requirement() -> str:
    try:
        needed = importlib.metadata.requires("jax") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
    return next((each.split(";")[0].strip() for each in needed if each.startswith("libtpu")), "libtpu")


def _nearest(text: str) -> str:
    kind = _kind(text)
    kinds = {kind: OFFERED[kind]} if kind in OFFERED else OFFERED
    names = ["local", "cpu:8", *(str(Topology(kind, dims)) for kind, slices in kinds.items() for dims in slices)]
    return (difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.3) or ["v5e:4x4"])[0]


def _kind(text: str) -> str:
    return text.strip().lower().rpartition("*")[2].partition(":")[0]


def _offered(text: str) -> str:
    kind = _kind(text)
    if kind not in OFFERED:
        return ""
    more = " and whole 4x4x4 cubes" if OFFERED[kind] is _CUBES else ""
    return f"Of {kind} there are {', '.join('x'.join(map(str, dims)) for dims in OFFERED[kind])}{more}."
