"""Which devices a collective joins, and along which axes of the mesh."""

import itertools
import math
import re

import numpy as np
from jax.sharding import Mesh

Groups = frozenset[frozenset[int]]

_IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"
_TILED = re.compile(rf"replica_groups=\[([\d,]+)\]<=({_IOTA})")
_LISTED = re.compile(r"replica_groups=(\{(?:\{[\d,]*\},?)*\})")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{}]*)\))? \{([^}]*)\}")
_AXIS = re.compile(r"'?([\w.]+)'?=(\d+)")
_PART = re.compile(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=(\{(?:\{\d+,\d+\},?)*\})")


def parse(attributes: str, devices: int) -> Groups:
    """The groups of a collective, as sets of positions in the mesh; devices that are alone are left out.

    Args:
        attributes: of the instruction. XLA writes `{{0,1},{2,3}}`, `[2,2]<=[2,2]T(1,0)`, or `mesh['a'=2,'b'=2],
            device_ids=([2,2]T(1,0)) {'a'}` (a sub-axis `'a':(1)2` too); a permutation has pairs.
        devices: how many the module runs on; an empty list is one group of all.

    Example:
        >>> listed = parse("replica_groups={{0,1},{2,3}}", 4)
        >>> listed == parse("replica_groups=[2,2]<=[4]", 4) == parse("replica_groups=mesh['a'=2,'b'=2] {'b'}", 4)
        True
    """
    if found := _NAMED.search(attributes):
        return _whole(_of_mesh(*found.groups(), devices))
    if found := _TILED.search(attributes):
        return _whole(_iota(found[2]).reshape(_integers(found[1])))
    if found := _PAIRS.search(attributes):
        return _whole([_integers(pair) for pair in re.findall(r"\{(\d+,\d+)\}", found[1])])
    if found := _LISTED.search(attributes):
        return _whole([_integers(group) for group in re.findall(r"\{([\d,]*)\}", found[1][1:-1])] or [range(devices)])
    return _whole([range(devices)])


def axes(groups: Groups, mesh: Mesh) -> tuple[str, ...]:
    """The fewest axes of the mesh along which the groups run; groups of parts of an axis name that axis.

    Example:
        >>> import jax
        >>> axes(frozenset({frozenset({0, 1})}), jax.make_mesh((2, 4), ("data", "fsdp")))
        ('fsdp',)
    """
    wide = [name for name in mesh.axis_names if mesh.shape[name] > 1]
    for count in range(1, len(wide) + 1):
        for chosen in itertools.combinations(wide, count):
            along = along_axes(mesh, chosen)
            if all(any(group <= other for other in along) for group in groups):
                return chosen
    return tuple(wide)


def along_axes(mesh: Mesh, names: tuple[str, ...]) -> Groups:
    """Positions of the devices that differ in these axes only, one group for each place on the other axes."""
    positions = np.arange(mesh.size).reshape(mesh.devices.shape)
    last = [mesh.axis_names.index(name) for name in names]
    rest = [axis for axis in range(positions.ndim) if axis not in last]
    return _whole(positions.transpose(rest + last).reshape(-1, math.prod(mesh.shape[name] for name in names)))


def _whole(rows) -> Groups:
    return frozenset(frozenset(int(each) for each in row) for row in rows if len(set(map(int, row))) > 1)


def _integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def _iota(text: str) -> np.ndarray:
    dims, _, order = text.partition("T")
    dims = _integers(dims.strip("[]"))
    values = np.arange(math.prod(dims)).reshape(dims)
    return values.transpose(_integers(order.strip("()"))) if order else values


def _of_mesh(axes_text: str, ids: str | None, chosen: str, devices: int) -> np.ndarray:
    if not ids:
        order = np.arange(devices)
    else:
        order = _iota(ids) if ids.startswith("[") else np.array(_integers(ids.replace(" ", "")))
    parts = {name: (before, part) for name, before, part in _PART.findall(chosen)}
    dims, kept = [], []
    for name, extent in _AXIS.findall(axes_text):
        before, part = parts.get(name, ("", ""))
        if part:
            # A sub-axis splits its axis in three: what lies before it, itself, and the rest.
            kept.append(len(dims) + 1)
            dims += [int(before), int(part), int(extent) // (int(before) * int(part))]
        else:
            kept += [len(dims)] if name in parts else []
            dims.append(int(extent))
    rest = [i for i in range(len(dims)) if i not in kept]
    return order.reshape(dims).transpose(rest + kept).reshape(-1, math.prod(dims[i] for i in kept))
