"""A step compiled for its mesh, and what that says: memory, work, collectives, and the time that they allow."""

import contextlib
import functools
import math
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clujax.errors import ConfigError
from clujax.planning import chips, counting, hlo, roofline
from clujax.planning.advice import Advice, Memory, advise
from clujax.planning.topology import Topology, one_slice, wrapped
from clujax.training import Outline, lower

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SHORT = re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds available HBM \(([\d.]+)([KMGTP]?)\)")


class StepPlan(NamedTuple):
    """One step on one topology; work, bytes and times are those of one chip and one call.

    Attributes:
        name: of the step.
        topology: compiled for.
        chip: the data-sheet row; None for a CPU.
        chips: of the mesh.
        mesh: sizes by axis.
        rows: global rows of the batch.
        calls: in the whole run.
        memory: its breakdown.
        flops: matmul FLOPs counted in the compiled program, loops in full.
        reported_flops: what the compiler's own cost analysis says (elementwise work too, each loop once).
        traffic: bytes to and from memory.
        collectives: merged by kind and axes.
        network: seconds of each of them; empty without a chip.
        exchange: bytes of each chip's share in what several slices would all-reduce between them.
        times: the roofline; None without a chip or where the step does not fit.
        scaling: to several slices, from the roofline.
        advice: where it does not fit.
        notes: what could not be counted.
        compile_seconds: here.
    """

    name: str
    topology: str
    chip: chips.Chip | None
    chips: int
    mesh: dict[str, int]
    rows: int
    calls: float
    memory: Memory
    flops: int | None = None
    reported_flops: float | None = None
    traffic: int | None = None
    collectives: tuple[counting.Collective, ...] = ()
    network: tuple[float, ...] = ()
    exchange: float = 0.0
    times: roofline.Times | None = None
    scaling: tuple[roofline.Scaled, ...] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    compile_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether the memory of a chip is enough."""
        return not self.memory.over


def analyse(outline: Outline, mesh: Mesh, topology: Topology, lowered: jax.stages.Lowered | None = None) -> StepPlan:
    """Compile the step and read the result; a step that is too large for its chips gives a plan that says so.

    Args:
        outline: of the step.
        mesh: that it was made for.
        topology: that the mesh lies on.
        lowered: the step, when it has been lowered already.

    Raises:
        ConfigError: the batch does not divide over the mesh, or a rule names an axis that the mesh lacks.
    """
    lowered = lowered or lower(outline)
    device = mesh.devices.flat[0]
    chip, began = chips.of_kind(device.device_kind), time.perf_counter()
    parts = _arguments(lowered)
    plan = StepPlan(
        outline.name, str(topology), chip, mesh.size, dict(mesh.shape), outline.rows, outline.calls, Memory()
    )  # fmt: skip
    compiled, need, limit = _compile(lowered, topology.tpu)
    if compiled is None:
        memory = Memory(**parts, temporaries=max(0, need - sum(parts.values())), limit=limit)
        plan = plan._replace(memory=memory, compile_seconds=time.perf_counter() - began)
        return plan._replace(
            advice=tuple(advise(memory, outline.rows, mesh.shape, _by_rows(outline, memory, topology.tpu)))
        )
    spent = time.perf_counter() - began
    module, within = hlo.parse(compiled.as_text()), one_slice(mesh)
    collectives = tuple(counting.collectives(module, within, mesh.size // within.size))
    memory = _memory(compiled, parts, usable(device))
    if topology.tpu and memory.limit:
        # The compiler's word decides; it names its limit in two decimals.
        memory = memory._replace(limit=max(memory.limit, memory.total))
    flops, traffic = counting.flops(module), counting.traffic(module)
    exchange = counting.exchange(collectives, within) if mesh.size > 1 else parts["parameters"]
    times, scaling, network = None, (), ()
    if chip:
        network = tuple(roofline.seconds(each, within, chip, wrapped(topology)) for each in collectives)
        times = roofline.times(flops, traffic, sum(network), chip)
        if topology.slices == 1 and chip.slice_rate:
            scaling = tuple(roofline.scale(times, exchange, mesh.size, outline.rows, chip))
    loops, kernels = hlo.unknown_loops(module), counting.uncounted(module)
    unfit = memory.over > 0  # a GPU's compiler leaves it to the run to find out
    advice = tuple(advise(memory, outline.rows, mesh.shape, _by_rows(outline, memory, topology.tpu))) if unfit else ()
    notes = (f"loops whose length the program does not say count once: {', '.join(loops)}",) if loops else ()
    notes += (f"FLOPs leave out the kernels of: {', '.join(kernels)}",) if kernels else ()
    return plan._replace(
        memory=memory,
        flops=flops,
        reported_flops=(compiled.cost_analysis() or {}).get("flops"),
        traffic=traffic,
        collectives=collectives,
        network=network,
        exchange=exchange,
        times=times,
        scaling=scaling,
        advice=advice,
        notes=notes,
        compile_seconds=spent,
    )


def _compile(lowered: jax.stages.Lowered, described: bool) -> tuple[jax.stages.Compiled | None, int, int | None]:
    """The program, or None with the bytes that it would need and those that a chip has, here or `described`."""
    try:
        with _uncached() if described else contextlib.nullcontext():
            return lowered.compile(), 0, None
    except jax.errors.JaxRuntimeError as error:
        short = _SHORT.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not short:
            raise
        need, limit = (int(float(short[i]) * _UNITS[short[i + 1]]) for i in (1, 3))
        return None, need, limit


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """No compilation cache: jax would write programs for described devices to it, and cannot read them back."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _by_rows(outline: Outline, memory: Memory, described: bool) -> int | None:
    """Bytes that grow with the batch, measured by compiling the step for half of it; None where that cannot be had."""
    rows = outline.rows
    halve = lambda leaf: (leaf.shape[0] // 2, *leaf.shape[1:]) if leaf.shape[:1] == (rows,) else leaf.shape
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(halve(leaf), leaf.dtype), outline.batch)
    try:
        compiled, need, _ = _compile(lower(outline._replace(batch=batch, rows=rows // 2)), described)
    except ConfigError:  # half of the batch does not divide over the chips
        return None
    if compiled is not None:
        found = compiled.memory_analysis()
        outputs = found.output_size_in_bytes - found.alias_size_in_bytes
        need = found.argument_size_in_bytes + found.temp_size_in_bytes + found.generated_code_size_in_bytes + outputs
    return max(0, 2 * (memory.total - need))


@functools.cache
def usable(device: jax.Device) -> int | None:
    """Bytes that a program may use on a device: what the TPU compiler says to a program that is too large, what a GPU
    offers jax; None on a CPU.
    """
    if device.platform == "gpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    if device.platform != "tpu":
        return None
    place = NamedSharding(Mesh(np.array([device]), ("one",)), PartitionSpec())
    large = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=place)
    return _compile(jax.jit(lambda x: x + 1).lower(large), described=True)[2]


def _arguments(lowered: jax.stages.Lowered) -> dict[str, int]:
    """Bytes on one chip by part, of what the program needs."""
    # jax tells the layouts of arguments publicly after a compilation only, which may fail here.
    kept, layouts = (lowered._lowering.compile_args[name] for name in ("kept_var_idx", "in_shardings"))
    leaves, tree = jax.tree.flatten(lowered.args_info)
    layout_of = dict(zip(sorted(kept), layouts, strict=True))
    shares = tree.unflatten([_share(leaf, layout_of[i]) if i in kept else 0 for i, leaf in enumerate(leaves)])
    (state, batch, *rest), named = shares
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "stats": (state.stats, state.step, state.key),
        "batch": batch,
        "extra": (rest, named),
    }
    return {name: sum(jax.tree.leaves(part)) for name, part in parts.items()}


def _share(leaf: Any, layout: Any) -> int:
    shape = layout.shard_shape(leaf.shape) if isinstance(layout, jax.sharding.Sharding) else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize


def _memory(compiled: jax.stages.Compiled, parts: dict[str, int], limit: int | None) -> Memory:
    found = compiled.memory_analysis()
    return Memory(
        **parts,
        padding=max(0, found.argument_size_in_bytes - sum(parts.values())),
        temporaries=found.temp_size_in_bytes,
        outputs=max(0, found.output_size_in_bytes - found.alias_size_in_bytes),
        program=found.generated_code_size_in_bytes,
        limit=limit,
    )
