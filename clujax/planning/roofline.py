"""How long a step takes at best: the slowest of computing, memory and network, and their sum when nothing overlaps.

Assumed: peak rates of the data sheet, no latency, no start-up of kernels, no contention on a link, matrix products in
bfloat16 passes. All of it makes the time a lower bound. Rings as in Thakur et al. (2005): a chip sends 2(n-1)/n of an
array for an all-reduce and (n-1)/n for an all-gather or a reduce-scatter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from clujax.planning.chips import Chip
from clujax.planning.counting import DCN, Collective
from clujax.planning.groups import along_axes


class Times(NamedTuple):
    """Seconds of one step on one chip."""

    compute: float
    memory: float
    network: float

    @property
    def bound(self) -> float:
        """All three at once."""
        return max(self)

    @property
    def in_turn(self) -> float:
        """One after the other."""
        return sum(self)

    @property
    def binds(self) -> str:
        """Which of the three is the slowest."""
        return max(self._fields, key=lambda name: getattr(self, name))

    @property
    def utilisation(self) -> float:
        """The share of the matrix units' peak that the step can reach at most (model FLOPs utilisation)."""
        return self.compute / self.bound if self.bound else 0.0


class Scaled(NamedTuple):
    """A step on several slices, each with its own rows (weak scaling).

    Attributes:
        slices: how many.
        chips: of all.
        rows: of all.
        between: seconds that the gradient takes between them.
        overlapped: seconds of a step if everything overlaps.
        in_turn: seconds if nothing does.
        efficiency: time on one slice over time on these, if everything overlaps.
        efficiency_in_turn: the same if nothing does.
    """

    slices: int
    chips: int
    rows: int
    between: float
    overlapped: float
    in_turn: float
    efficiency: float
    efficiency_in_turn: float


def times(flops: float, traffic: float, network: float, chip: Chip) -> Times:
    """The three times of a step.

    Args:
        flops: per chip.
        traffic: bytes to and from its memory.
        network: seconds of its collectives, one after the other.
        chip: whose peaks count.
    """
    return Times(flops / chip.flops, traffic / chip.memory_rate, network)


def seconds(collective: Collective, mesh: jax.sharding.Mesh, chip: Chip, wrapped: tuple[bool, ...] = ()) -> float:
    """The time of collectives on the links that their axes have; those between slices go over DCN.

    The rate of DCN is not known of every chip; the time is nan then.
    """
    if collective.axes == (DCN,):
        return sent(collective.kind, collective.payload, collective.group) / (chip.slice_rate or np.nan)
    rate, dimensions = links(mesh, collective.axes, chip, wrapped)
    return sent(collective.kind, collective.payload, collective.group, dimensions) / rate


def sent(kind: str, payload: float, group: int, dimensions: int = 0) -> float:
    """Bytes that each chip puts on its links, counting every hop.

    Args:
        kind: of the collective.
        payload: bytes, as in `Collective`.
        group: chips that take part.
        dimensions: of the torus that joins them, 0 for a switch. It matters to an all-to-all, whose parts travel a
            quarter of the way round in each dimension on average.

    Example:
        >>> [sent(kind, 80, 4) for kind in ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")]
        [120.0, 60.0, 60.0, 80]
    """
    if group < 2:
        return 0.0
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * share * payload
    if kind in ("all-gather", "reduce-scatter"):
        return share * payload
    if kind in ("all-to-all", "ragged-all-to-all"):
        return payload * (dimensions * group ** (1 / dimensions) / 4 if dimensions else share)
    return payload


def links(mesh: jax.sharding.Mesh, axes: tuple[str, ...], chip: Chip, wrapped: tuple[bool, ...]) -> tuple[float, int]:
    """Bytes/s at which a chip sends along mesh axes, and over how many dimensions of the torus (0 for a switch)."""
    if not chip.torus or not wrapped:
        return chip.link_rate, 0
    group = sorted(next(iter(along_axes(mesh, axes))))
    place = lambda device: device.coords[: len(wrapped)]
    extents = np.array([place(device) for device in mesh.devices.flat]).max(0) + 1
    count, dimensions = spanned(np.array([place(mesh.devices.flat[i]) for i in group]), extents, wrapped)
    return chip.link_rate * count, dimensions


def spanned(places: np.ndarray, extents: np.ndarray, wrapped: tuple[bool, ...]) -> tuple[int, int]:
    """Links that each chip of a group has to the others, and the dimensions of the torus that they run in.

    A dimension gives two where the group closes a ring and one where it is a line: its ends pass everything through one.

    Args:
        places: coordinates of the group's chips, one row each.
        extents: of the slice.
        wrapped: which dimensions are closed.
    """
    spans = [len(set(column)) for column in places.T.tolist()]
    used = [2 if closed and span == extent else 1 for span, extent, closed in zip(spans, extents, wrapped) if span > 1]
    return max(1, sum(used)), max(1, len(used))


def scale(
    step: Times, exchange: float, chips: int, rows: int, chip: Chip, slices: Sequence[int] = (1, 2, 4, 8, 16)
) -> list[Scaled]:
    """The step on more slices, data-parallel across them.

    Each chip holds its share of the slice's gradient (and of whatever else is summed over rows) after a reduce-scatter
    inside the slice; the shares are all-reduced over DCN and gathered again inside (XLA's hierarchical all-reduce; the
    inner parts are counted in `step` already).

    Args:
        step: on one slice.
        exchange: bytes of each chip's share, see `counting.exchange`.
        chips: of a slice.
        rows: of a slice's batch.
        chip: its DCN rate must be known.
        slices: to tabulate.
    """
    found = []
    for count in slices:
        between = sent("all-reduce", exchange, count) / chip.slice_rate if count > 1 else 0.0
        overlapped, in_turn = max(step.bound, between), step.in_turn + between
        shares = (step.bound / overlapped, step.in_turn / in_turn) if step.bound else (1.0, 1.0)
        found.append(Scaled(count, count * chips, count * rows, between, overlapped, in_turn, *shares))
    return found
