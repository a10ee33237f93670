"""Device meshes from config values."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils

from clujax.errors import ConfigError


def make_mesh(
    axes: Sequence[tuple[str, int]] = (("data", -1), ("fsdp", 1)), devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Lay the devices out on named axes.

    Args:
        axes: pairs (name, size) in order; at most one size is -1 and takes all devices that the others leave.
        devices: the devices to use, all of `jax.devices()` by default.

    Returns:
        A mesh whose axes XLA may shard over (`AxisType.Auto`).

    Raises:
        ConfigError: names repeat, a size is not positive, or the sizes do not multiply to the number of devices.

    Example:
        >>> import jax
        >>> dict(make_mesh((("data", -1),), jax.devices()[:1]).shape)
        {'data': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    names, sizes = [name for name, _ in axes], [int(size) for _, size in axes]
    if not names:
        raise ConfigError('a mesh needs at least one axis, for example (("data", -1),)')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"mesh {tuple(axes)} names the axis {twice[0]!r} twice; give each axis a name of its own")
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ConfigError(f"mesh sizes must be positive, with at most one -1 that fills up; got {tuple(axes)}")
    given = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if len(devices) % given:
            raise ConfigError(
                f"mesh {tuple(axes)}: {len(devices)} devices do not divide by the given sizes ({given}); "
                f"choose sizes whose product divides {len(devices)}"
            )
        sizes[sizes.index(-1)] = len(devices) // given
    elif given != len(devices):
        raise ConfigError(
            f"mesh {tuple(axes)} needs {given} devices and there are {len(devices)}; "
            "set one size to -1 to fill up, or pass devices="
        )
    # Knows the topology of a pod, also of one that is only described, and keeps neighbours together.
    kind = (jax.sharding.AxisType.Auto,) * len(names)
    try:
        return jax.make_mesh(tuple(sizes), tuple(names), axis_types=kind, devices=devices)
    except NotImplementedError:  # no whole axes of the torus make these sizes: an axis is cut in parts
        split = mesh_utils.create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
        return jax.sharding.Mesh(split, tuple(names), axis_types=kind)
