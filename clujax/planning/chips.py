"""What each kind of chip can do, from public data sheets."""

import functools
from typing import NamedTuple


class Chip(NamedTuple):
    """Peak figures of one chip (one device of jax); None where no public figure was found.

    Attributes:
        name: as topologies and tables write it.
        kinds: what `device.device_kind` says.
        memory: bytes of HBM.
        memory_rate: bytes/s to and from HBM.
        flops: peak dense bfloat16 FLOP/s of the matrix units.
        link_rate: bytes/s of one link to a neighbour, one way (GPU: of all links of a chip).
        torus: dimensions of the torus that links the chips, 0 for a switch that joins all.
        wraps: sizes at which a dimension of the torus is closed to a ring: multiples of this.
        slice_rate: bytes/s of one chip's share in the network between slices (DCN), one way.
        source: where the figures stand.
    """

    name: str
    kinds: tuple[str, ...]
    memory: int
    memory_rate: float
    flops: float
    link_rate: float
    torus: int
    wraps: int
    slice_rate: float | None
    source: str


_GB, _GIB = 10**9, 2**30
# Links: a chip of a 2-D torus has 4, of a 3-D torus 6; the data sheets give bytes/s of all links in both directions.
CHIPS = (
    Chip(
        "v4", ("TPU v4",), 32 * _GIB, 1200e9, 275e12, 50e9, 3, 4, None,
        "Google Cloud, TPU v4 system architecture page; links: the TPU v4 paper (Jouppi et al. 2023), 6 × 50 GB/s",
    ),
    Chip(
        "v5e", ("TPU v5 lite", "TPU v5e"), 16 * _GIB, 819e9, 197e12, 400e9 / 8, 2, 16, 6.4e12 / 8 / 256,
        "Google Cloud, TPU v5e system architecture page: 400 GB/s ICI a chip, 6.4 Tbit/s DCN a pod of 256",
    ),
    Chip(
        "v5p", ("TPU v5", "TPU v5p"), 95 * _GIB, 2765e9, 459e12, 1200e9 / 12, 3, 4, 50e9 / 8,
        "Google Cloud, TPU v5p system architecture page: 1200 GB/s ICI and 50 Gbit/s DCN a chip",
    ),
    Chip(
        "v6e", ("TPU v6 lite", "TPU v6e"), 32 * _GIB, 1638e9, 918e12, 800e9 / 8, 2, 16, 25.6e12 / 8 / 256,
        "Google Cloud, TPU v6e system architecture page: 800 GB/s ICI a chip, 25.6 Tbit/s DCN a pod of 256",
    ),
    Chip(
        "A100", ("NVIDIA A100-SXM4-80GB",), 80 * _GB, 2039e9, 312e12, 300e9, 0, 1, None,
        "NVIDIA A100 80 GB SXM data sheet: NVLink 600 GB/s both ways",
    ),
    Chip(
        "H100", ("NVIDIA H100 80GB HBM3",), 80 * _GB, 3350e9, 989e12, 450e9, 0, 1, None,
        "NVIDIA H100 SXM data sheet: NVLink 900 GB/s both ways",
    ),
    Chip(
        "H200", ("NVIDIA H200",), 141 * _GB, 4800e9, 989e12, 450e9, 0, 1, None,
        "NVIDIA H200 SXM data sheet: NVLink 900 GB/s both ways",
    ),
)  # fmt: skip


@functools.cache
def of_kind(kind: str) -> Chip | None:
    """The chip of a `device_kind`; None for one without public figures here, a CPU's among them.

    Example:
        >>> of_kind("TPU v5 lite").name, of_kind("cpu")
        ('v5e', None)
    """
    return next((chip for chip in CHIPS if kind in chip.kinds), None)


def named(name: str) -> Chip:
    """The chip of that name."""
    return next(chip for chip in CHIPS if chip.name == name)
