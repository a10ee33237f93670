"""What one call of a compiled program does on one chip: matmul FLOPs, bytes to and from memory, collectives."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from clujax.planning import groups, hlo
from clujax.training.sharding import ROW_AXES

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
DCN = "slices"  # the axis of what is sent between slices
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "opt-barrier", "partition-id", "replica-id", "async-start", "async-update", "send", "recv",
}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "copy", "convert", "transpose")


class Collective(NamedTuple):
    """Collectives of one kind along the same axes of the mesh, per chip and call of the program.

    Attributes:
        kind: one of `KINDS`.
        axes: of the mesh; `("slices",)` for what goes between slices.
        group: devices that one of them joins.
        payload: bytes of the whole arrays: the operand of an all-reduce, reduce-scatter or all-to-all, the result of
            an all-gather.
        count: how many run.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    payload: int
    count: int


def flops(module: hlo.Module) -> int:
    """Floating-point operations of matrix products and convolutions, two for a multiply-add, loops counted in full.

    Elementwise work is left out: it runs on another unit, and memory bounds it.
    """
    total = 0
    for instruction, computation, times, _ in hlo.visits(module):
        if instruction.op in ("dot", "convolution"):
            here = module.computations[computation]
            left, right = (hlo.arrays(here[name].shape)[0].dims for name in instruction.operands)
            out = hlo.arrays(instruction.shape)[0].dims
            count = _dot if instruction.op == "dot" else _convolution
            total += times * count(left, right, out, instruction.attributes)
    return total


def uncounted(module: hlo.Module) -> list[str]:
    """Kernels that may compute products and do not say which (GPU libraries, Pallas): `flops` leaves them out."""
    targets = re.compile(r'custom_call_target="([^"]*(?:gemm|matmul|conv|cudnn|tpu_custom_call|triton|mosaic)[^"]*)"')
    found = (targets.search(each.instruction.attributes) for each in hlo.visits(module))
    return sorted({each[1] for each in found if each})


def collectives(module: hlo.Module, mesh: Mesh, slices: int = 1) -> list[Collective]:
    """Every collective, merged by kind and axes, the largest first.

    Args:
        module: compiled for `slices` times the mesh.
        mesh: of one slice; the groups of a program for several name the devices of one.
        slices: joined by the network between them.
    """
    total = {}
    for found, times in _each_collective(module, mesh, slices):
        payload, count = total.get(found[:3], (0, 0))
        total[found[:3]] = (payload + times * found.payload, count + times * found.count)
    merged = [Collective(*key, *value) for key, value in total.items()]
    return sorted(merged, key=lambda each: -each.payload)


def exchange(found: Sequence[Collective], mesh: Mesh) -> float:
    """Bytes on each chip that several such slices would have to all-reduce between them, data-parallel across slices.

    Whatever is summed over the rows of a slice is summed over those of the others too: of every reduction along the
    outermost axis of the rows, the share that is left on a chip after it.
    """
    axis = next((name for name in ROW_AXES if mesh.shape.get(name, 1) > 1), None)
    sums = [each for each in found if each.kind in ("all-reduce", "reduce-scatter") and axis in each.axes]
    return sum(each.payload / each.group for each in sums)


def traffic(module: hlo.Module) -> int:
    """Bytes read from and written to the chip's main memory, loops counted in full.

    Every instruction reads its operands and writes its result once; a fusion is one instruction. Of an array that is
    only sliced or updated in place, the slice counts. What the compiler keeps in on-chip memory (a memory space other
    than 0) is free. Caches and the padding of layouts are left out.
    """
    return sum(
        times * _moved(module, module.computations[computation], instruction)
        for instruction, computation, times, fused in hlo.visits(module)
        if not fused and instruction.op not in _FREE and not instruction.op.endswith("-done")
    )


def _dot(left: tuple, right: tuple, out: tuple, attributes: str) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    dims = [int(dim) for dim in contracted[1].split(",") if dim] if contracted else []
    return 2 * math.prod(out) * math.prod(left[dim] for dim in dims)


def _convolution(left: tuple, right: tuple, out: tuple, attributes: str) -> int:
    """Multiply-adds that meet an input element: padding and the holes of dilation do no work (as XLA counts)."""
    inputs, kernel, outputs = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes).groups()
    window = _window(attributes)
    batches = re.search(r"batch_group_count=(\d+)", attributes)
    spatial = sorted(label for label in inputs if label.isdigit())
    positions = math.prod(
        _met(
            left[inputs.index(label)], right[kernel.index(label)], out[outputs.index(label)],
            *(window[key][i] if key in window else default for key, default in _WINDOW),
        )
        for i, label in enumerate(spatial)
    )  # fmt: skip
    # The kernel's input features are those of one group already.
    features = right[kernel.index("i")] * right[kernel.index("o")]
    batch = left[inputs.index("b")] // (int(batches[1]) if batches else 1)
    return 2 * positions * features * batch


_WINDOW = (("stride", (1,)), ("pad", (0, 0)), ("lhs_dilate", (1,)), ("rhs_dilate", (1,)))


def _window(attributes: str) -> dict[str, list[tuple[int, ...]]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = re.findall(r"(\w+)=([\d_x\-]+)", found[1]) if found else []
    return {key: [tuple(int(n) for n in part.split("_")) for part in value.split("x")] for key, value in fields}


def _met(extent: int, kernel: int, out: int, stride: tuple, pad: tuple, holes: tuple, spread: tuple) -> int:
    place = np.arange(out)[:, None] * stride[0] + np.arange(kernel)[None] * spread[0] - pad[0]
    inside = (place >= 0) & (place <= (extent - 1) * holes[0]) & (place % holes[0] == 0)
    return int(inside.sum())


def _each_collective(module: hlo.Module, mesh: Mesh, slices: int) -> Iterator[tuple[Collective, int]]:
    visited = list(hlo.visits(module))
    begun = _begun(module, visited)
    for instruction, computation, times, _ in visited:
        kind, here = instruction.op.removesuffix("-start"), module.computations[computation]
        if instruction.op == "send" and "xla_megascale_transfer_type" in instruction.attributes:
            payload = hlo.size(here[instruction.operands[0]].shape)
            yield Collective("all-reduce", (DCN,), slices, payload, 1), times
        if kind not in KINDS or (_channel(instruction) in begun and not _begins(here)):
            continue
        joined = groups.parse(instruction.attributes, mesh.size)
        if not joined:
            continue
        group = max(map(len, joined))
        payload = sum(hlo.size(here[name].shape) for name in instruction.operands)
        if kind == "all-gather":
            payload *= group
        # TPU writes a reduce-scatter as a fusion of an all-reduce and the slice that each chip keeps.
        scatters = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
        kind = "reduce-scatter" if scatters else kind
        yield Collective(kind, groups.axes(joined, mesh), group, payload, 1), times


def _begun(module: hlo.Module, visited: list[hlo.Visit]) -> set:
    """Collectives that TPU splits in a start, fusions that carry them along, and a done: counted at the start."""
    return {
        _channel(each.instruction)
        for each in visited
        if each.instruction.op in KINDS and _begins(module.computations[each.computation])
    }


def _begins(computation: hlo.Computation) -> bool:
    return any('"AsyncCollectiveStart"' in each.attributes for each in computation.values())


def _channel(instruction: hlo.Instruction) -> tuple[str, str]:
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return instruction.op, channel[1] if channel else instruction.name


def _moved(module: hlo.Module, here: hlo.Computation, instruction: hlo.Instruction) -> int:
    if instruction.op == "custom-call" and "AllocateBuffer" in instruction.attributes:
        return 0
    if instruction.op in ("copy-start", "slice-start"):
        # The shape names source and target, a slice being the smaller.
        ends = hlo.arrays(instruction.shape)[:2]
        return min(end.bytes for end in ends) * sum(not end.space for end in ends)
    if instruction.op.endswith("-start"):
        return _in_memory(instruction.shape)  # a collective's operands and results
    if instruction.op == "dynamic-update-slice":
        return 2 * _in_memory(here[instruction.operands[1]].shape)
    if instruction.op in _SLICES:
        return 2 * _in_memory(instruction.shape)
    if instruction.op != "fusion":
        return _in_memory(instruction.shape) + sum(_in_memory(here[name].shape) for name in instruction.operands)
    inner = module.computations[hlo.called(instruction)[0]]
    read = sum(
        min(_in_memory(here[name].shape), _read(module, inner, index))
        for index, name in enumerate(instruction.operands)
    )
    root = next(each for each in inner.values() if each.root)
    parts = [inner[name] for name in root.operands] if root.op == "tuple" else [root]
    # What the fusion writes lies where its own shape says; a root that updates a slice in place writes the slice.
    kept = hlo.arrays(instruction.shape)
    return read + sum(_written(inner, part) for part, array in zip(parts, kept) if not array.space)


def _read(module: hlo.Module, inner: hlo.Computation, index: int) -> int:
    """Bytes of its operand `index` that a fusion reads."""
    parameter = next(each for each in inner.values() if each.op == "parameter" and each.inside == str(index))
    total, names = 0, [parameter.name]
    while names:
        name = names.pop()
        for user in inner.values():
            places = [place for place, operand in enumerate(user.operands) if operand == name]
            if not places:
                continue
            if user.op in ("bitcast", "reshape"):
                names.append(user.name)
            elif user.op in _SLICES and places == [0]:
                total += hlo.size(user.shape)
            elif user.op == "dynamic-update-slice" and places == [0]:
                continue
            elif user.op == "fusion":
                nested = module.computations[hlo.called(user)[0]]
                total += sum(_read(module, nested, place) for place in places)
            else:
                return hlo.size(parameter.shape)
    return total


def _written(inner: hlo.Computation, part: hlo.Instruction) -> int:
    while part.op in _VIEWS:
        part = inner[part.operands[0]]
    return hlo.size(inner[part.operands[1]].shape) if part.op == "dynamic-update-slice" else hlo.size(part.shape)


def _in_memory(shape: str) -> int:
    return sum(map(_kept, hlo.arrays(shape)))


def _kept(array: hlo.Array) -> int:
    return 0 if array.space else array.bytes
