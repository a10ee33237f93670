"""Weights saved by PyTorch before 1.6 as numpy arrays: a pickle that may name tensors and nothing else."""

import io
import math
import pickle
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from clujax.data.files import DamagedDataError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Tensor(NamedTuple):
    """A tensor whose numbers come later in the file: (key, dtype, count) of its storage, and how it lies in it."""

    storage: tuple[str, str, int]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorUnpickler(pickle.Unpickler):
    """Reads pickled dicts of tensors and calls nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        """What a state dict is made of.

        Raises:
          UnpicklingError: the pickle asks for anything else.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        """The storage of a tensor: its key, dtype and count.

        Raises:
          UnpicklingError: another kind of reference.
        """
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage" and pid[5] is None):
            raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage of a tensor")
        _, dtype, key, _, count, _ = pid
        return str(key), dtype, int(count)


def _tensor(storage, offset, shape, strides, *_):
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def read_state(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name.

    Args:
      content: of the file.
      where: the file, for messages.

    Raises:
      DamagedDataError: another format, cut short, or a pickle that asks for something that is no tensor.
    """
    file = io.BytesIO(content)
    try:
        magic, _, system = (TensorUnpickler(file).load() for _ in range(3))
        if magic != MAGIC or not system["little_endian"]:
            raise ValueError("it does not start as such a file does")
        state = TensorUnpickler(file).load()
        if not all(isinstance(each, Tensor) for each in state.values()):
            raise ValueError("it holds other things than tensors")
        wanted = {each.storage[0]: each.storage[1:] for each in state.values()}
        held = {key: _numbers(file, *wanted[key]) for key in TensorUnpickler(file).load()}
        return {name: _placed(held[each.storage[0]], each) for name, each in state.items()}
    except (pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError) as error:
        raise DamagedDataError(f"{where} is no state dict of an old PyTorch ({error}). Get it again.") from error


def _numbers(file: io.BytesIO, dtype: str, count: int) -> np.ndarray:
    if int.from_bytes(file.read(8), "little") != count:
        raise ValueError("a storage has another size than its tensor says")
    return np.frombuffer(file.read(np.dtype(dtype).itemsize * count), dtype, count)


def _placed(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, 0, *tensor.shape, *tensor.strides) < 0 or (math.prod(tensor.shape) and last >= len(numbers)):
        raise ValueError("a tensor reaches beyond its storage")
    strides = tuple(stride * numbers.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
