"""What would make a step fit that does not: estimates from its breakdown, the smallest change of each kind."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes on one chip. The first five are what the step is called with, without padding.

    Attributes:
        parameters: the chip's share of them.
        optimizer: of the optimizer's state.
        stats: of the network's other collections, step and key.
        batch: of the batch.
        extra: of further arguments (masks, rates).
        padding: what the layouts of the arguments add (TPU: tiles of 8 × 128, so a last dimension of 10 costs 128 or
            is laid out the other way round).
        temporaries: gradients, activations and everything else that lives within the step, as the compiler packed it.
        outputs: results that reuse no argument's memory.
        program: the code.
        limit: what a chip has for all of it; None where it is not known.
    """

    parameters: int = 0
    optimizer: int = 0
    stats: int = 0
    batch: int = 0
    extra: int = 0
    padding: int = 0
    temporaries: int = 0
    outputs: int = 0
    program: int = 0
    limit: int | None = None

    @property
    def total(self) -> int:
        """Bytes needed."""
        return sum(self[:-1])

    @property
    def over(self) -> int:
        """Bytes above the limit, 0 when it fits."""
        return 0 if self.limit is None else max(0, self.total - self.limit)


class Advice(NamedTuple):
    """One change, the bytes that a chip would need after it, and whether that fits."""

    change: str
    total: int
    fits: bool


def advise(memory: Memory, rows: int, mesh: Mapping[str, int], by_rows: int | None = None) -> list[Advice]:
    """Changes that would help, those that suffice first; none when the step fits.

    A change that saves less than a hundredth is left out.

    Assumed: gradients take as much as parameters, `fsdp` splits all state, bfloat16 halves the activations and not the
    float32 state, and recomputing leaves a third of them (the square root of nine blocks).

    Args:
        memory: of the step that does not fit.
        rows: global rows of its batch.
        mesh: sizes by axis.
        by_rows: bytes that grow with the batch, when measured; else all temporaries but the gradients, and the batch.
    """
    if not memory.over:
        return []
    limit, shards = memory.limit, mesh.get("data", 1) * mesh.get("fsdp", 1)
    gradients = min(memory.parameters, memory.temporaries)
    if by_rows is None:
        by_rows = memory.temporaries - gradients + memory.batch
    by_rows = min(by_rows, memory.total)
    activations = max(0, by_rows - memory.batch)
    state, rest = memory.parameters + memory.optimizer + gradients, memory.total - by_rows
    found = []

    def add(change: str, total: float) -> None:
        found.append(Advice(change, math.ceil(total), total <= limit))

    per_chip = rows // shards
    fitting = [n for n in _divisors(per_chip) if n < per_chip and rest + by_rows * n / per_chip <= limit]
    if per_chip > 1:
        fewer = max(fitting, default=1)
        total = rest + by_rows * fewer / per_chip
        add(f"batch size {rows} → {fewer * shards}", total)
        more = total + memory.parameters
        parts = per_chip // fewer
        add(f"accumulate gradients over {parts} batches of {fewer * shards} rows (optax.MultiSteps)", more)
    add("bfloat16 activations", memory.total - activations / 2)
    add("recompute activations in the backward pass (jax.checkpoint on each block)", memory.total - activations * 2 / 3)
    now = mesh.get("fsdp", 1)
    wider = [n for n in _divisors(shards) if n > now]
    if wider:
        sizes = {n: memory.total - state * (1 - now / n) for n in wider}
        chosen = next((n for n in wider if sizes[n] <= limit), wider[-1])
        add(f"mesh axis fsdp {now} → {chosen} (data {shards // now} → {shards // chosen})", sizes[chosen])
    if not any(each.fits for each in found) and memory.total - state < limit:
        times = 2 ** math.ceil(math.log2(state / (limit - memory.total + state)))
        add(
            f"a slice of {times} times the chips, mesh axis fsdp {now} → {now * times}",
            memory.total - state * (1 - 1 / times),
        )
    found = [each for each in found if each.total < 0.99 * memory.total]
    return sorted(found, key=lambda each: (not each.fits, each.total if not each.fits else 0))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
