"""One kernel's factors as PEFT lays them out, and back: transposes alone, so that every bit survives."""

from collections.abc import Mapping

import numpy as np

from clujax.geometry import lowrank
from clujax.lora.rules import Adapted

MAGNITUDE = "lora_magnitude_vector"
Tensors = dict[str, np.ndarray]


def is_embedding(entry: Adapted) -> bool:
    """Whether a leaf is a table of rows (vocabulary, d), which PEFT holds the other way round."""
    return entry.name.split("/")[-1] == "embedding"


def to_peft(adapter: Mapping[str, np.ndarray], index: tuple[int, ...], entry: Adapted, convolution: bool) -> Tensors:
    """The tensors of one kernel (of a stack: the one at `index`), by the end of their names."""
    a, b = np.asarray(adapter["a"])[index], np.asarray(adapter["b"])[index]
    rank, outputs = b.shape[0], b[0].size
    if is_embedding(entry):
        return {"lora_embedding_A": b, "lora_embedding_B": a}
    spatial = a.ndim - 2
    if convolution:
        inner = np.moveaxis(a, (-1, _channel(entry)), (0, 1))
        outer = b.reshape(rank, outputs).T.reshape(outputs, rank, *[1] * spatial)
    else:
        inner, outer = a.reshape(-1, rank).T, b.reshape(rank, outputs).T
    found = {"lora_A.weight": inner, "lora_B.weight": outer}
    if entry.magnitude:
        size = np.asarray(lowrank.to_matrix(np.asarray(adapter["magnitude"]), entry.layout))[index]
        found[MAGNITUDE] = size.reshape((1, outputs, *[1] * spatial) if convolution else outputs)
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def from_peft(kernels: list[Tensors], entry: Adapted, convolution: bool) -> dict[str, np.ndarray]:
    """The adapter from the tensors of its kernels, one of each in a stack (in the order of their places)."""
    shape_a, shape_b = lowrank.factor_shapes(entry.shape, entry.rank, entry.layout)
    stacked = len(entry.layout.batch)

    def inner(tensors: Tensors) -> np.ndarray:
        if is_embedding(entry):
            return tensors["lora_embedding_B"]
        if convolution:
            return np.moveaxis(tensors["lora_A.weight"], (0, 1), (-1, _channel(entry)))
        return tensors["lora_A.weight"].T.reshape(shape_a[stacked:])

    def outer(tensors: Tensors) -> np.ndarray:
        if is_embedding(entry):
            return tensors["lora_embedding_A"]
        return tensors["lora_B.weight"].reshape(-1, entry.rank).T

    found = {
        "a": np.stack([*map(inner, kernels)]).reshape(shape_a),
        "b": np.stack([*map(outer, kernels)]).reshape(shape_b),
    }
    if entry.magnitude:
        sizes = np.stack([tensors[MAGNITUDE].ravel() for tensors in kernels])
        shape = tuple(1 if axis in entry.layout.fan_in else size for axis, size in enumerate(entry.shape))
        found["magnitude"] = np.asarray(lowrank.from_matrix(sizes[:, None, :], shape, entry.layout))
    return found


def blank(entry: Adapted) -> dict[str, np.ndarray]:
    """An adapter of zeros, for its shapes."""
    shapes = dict(zip("ab", lowrank.factor_shapes(entry.shape, entry.rank, entry.layout)))
    if entry.magnitude:
        shapes["magnitude"] = tuple(1 if i in entry.layout.fan_in else size for i, size in enumerate(entry.shape))
    return {part: np.zeros(shape, np.bool_) for part, shape in shapes.items()}


def _channel(entry: Adapted) -> int:
    """Which axis of a [*inputs, r] holds the channels: the last input of (…, cin, cout), the first of (cout, cin, …)."""
    (output,) = entry.layout.outputs(len(entry.shape))
    return 0 if output < min(entry.layout.fan_in) else len(entry.layout.fan_in) - 1
