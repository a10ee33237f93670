"""Adapters as Hugging Face's PEFT stores them: `adapter_model.safetensors` and `adapter_config.json` in a folder.

Per module of the other network: `lora_A.weight [r, in]` and `lora_B.weight [out, r]` (convolutions `[r, cin, kh, kw]` and
`[out, r, 1, 1]`), for an embedding `lora_embedding_A [r, vocabulary]` and `lora_embedding_B [d, r]`, with DoRA a
`lora_magnitude_vector [out]`. Kernels with several input or output axes (attention) are flattened there; of a stack each
kernel is a module.
"""

import collections
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from clujax.errors import CheckpointError
from clujax.geometry.layouts import Layout, checked, infer_layout
from clujax.geometry.paths import named
from clujax.lora.adapters import Adapters, check
from clujax.lora.initializations import trained
from clujax.lora.peft_forms import MAGNITUDE, Tensors, blank, from_peft, is_embedding, to_peft
from clujax.lora.rules import Adapted, Spec, rank_stabilized, standard
from clujax.training.workdir import write_bytes

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

Names = Callable[[str, tuple[int, ...]], str]


def module_name(path: str, index: tuple[int, ...] = ()) -> str:
    """The module that holds a leaf, dotted: the path without its last part, and a stacked kernel's place at the end.

    Example:
      >>> module_name("block_0/query/kernel"), module_name("layers/mlp/kernel", (3,))
      ('block_0.query', 'layers.mlp.3')
    """
    return ".".join([*path.split("/")[:-1], *map(str, index)])


def is_convolution(entry: Adapted) -> bool:
    """Whether PEFT would hold a kernel as a convolution: three input axes or more. A 1-D one needs a rule of its own."""
    return len(entry.layout.fan_in) > 2


def write_peft(
    directory: str | os.PathLike,
    adapters: Adapters,
    spec: Spec,
    *,
    names: Names = module_name,
    convolution: Callable[[Adapted], bool] = is_convolution,
    use_rslora: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write adapters for PEFT; each file appears whole or not at all, the tensors first.

    An initialisation that shifts the base (PiSSA, OLoRA, LoRA-GA) must have shifted PEFT's base as well: the adapters belong
    to the base that `init` gave back.

    Args:
      directory: made when missing.
      names: (path, place in a stack) -> the other network's module, such as "model.layers.3.self_attn.q_proj".
      convolution: which kernels PEFT holds as convolutions.
      use_rslora: write the α of s = α/√r instead of s = α/r; the scale is the same.
      more: further keys of the config, such as `base_model_name_or_path` and `task_type`.

    Raises:
      ValueError: adapters that do not fit the spec, two kernels under one module name, a trained magnitude (DoRA) for some
        kernels only or for an embedding.
      ImportError: safetensors is not installed.
    """
    save = _safetensors().save
    check(adapters, spec)
    if len({entry.magnitude for entry in spec}) > 1 or any(e.magnitude and is_embedding(e) for e in spec):
        raise ValueError("PEFT's use_dora holds for all kernels or none, and for no embedding; magnitudes differ here.")
    tensors: Tensors = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for entry in spec:
        host = {part: np.asarray(value) for part, value in adapters[entry.name].items()}
        for index, module in _modules(entry.name, entry.layout, entry.shape, names):
            if module in ranks:
                raise ValueError(f"two kernels have the module name {module!r}; give names= that tell them apart.")
            ranks[module], alphas[module] = entry.rank, _alpha(entry, rank_stabilized if use_rslora else standard)
            for end, tensor in to_peft(host, index, entry, convolution(entry)).items():
                tensors[f"{PREFIX}{module}.{end}"] = tensor
    rank, alpha = (collections.Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": _pattern(alphas, alpha),
        "use_rslora": use_rslora,
        "use_dora": any(entry.magnitude for entry in spec),
        "target_modules": sorted(ranks),
        "lora_dropout": max(entry.dropout for entry in spec),
        "bias": "none",
        "inference_mode": True,
    }
    folder = pathlib.Path(directory)
    write_bytes(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    write_bytes(folder / CONFIG, (json.dumps(config | dict(more or {}), indent=2) + "\n").encode())


def read_peft(
    directory: str | os.PathLike,
    base: PyTree,
    *,
    layouts: Mapping[str, Layout] | None = None,
    names: Names = module_name,
    convolution: Callable[[Adapted], bool] = is_convolution,
) -> tuple[Adapters, Spec]:
    """Read adapters that PEFT or `write_peft` wrote, and the spec that they make with a base.

    Args:
      base: arrays or shapes.
      layouts: by path, for kernels whose layout cannot be inferred, and for stacks.
      names: as in `write_peft`.
      convolution: as in `write_peft`.

    Returns:
      Adapters in the file's dtypes, bit for bit, and their spec.

    Raises:
      CheckpointError: a file is missing or cannot be read; it is no LoRA; tensors are missing, have other shapes than the
        base and the config's ranks ask for, or belong to no leaf of the base. The first five are named.
      ImportError: safetensors is not installed.
    """
    config, tensors = _read(pathlib.Path(directory))
    adapters, entries, wrong, used = {}, [], [], set()
    for path, leaf in named(base).items():
        shape, layout = tuple(leaf.shape), (layouts or {}).get(path)
        layout = None if layout is None else checked(path, shape, layout)
        modules = [module for _, module in _modules(path, layout or Layout((0,)), shape, names)]
        begins = tuple(f"{PREFIX}{module}.lora_" for module in modules)
        # A bias lies in the same module as its kernel.
        if len(shape) < 2 or not any(key.startswith(begins) for key in tensors):
            continue
        layout = layout or infer_layout(path, shape)
        rank, scale = _resolved(config, modules[0])
        entry = Adapted(
            path, shape, layout, rank, scale, trained, jnp.dtype("float32"), bool(config.get("use_dora")),
            float(config.get("lora_dropout", 0.0)),
        )  # fmt: skip
        shapes = {
            end: t.shape
            for end, t in to_peft(blank(entry), (0,) * len(layout.batch), entry, convolution(entry)).items()
        }
        kernels, faults = [], []
        for module in modules:
            if _resolved(config, module) != (rank, scale):
                faults.append(f"{module} has rank and scale {_resolved(config, module)}, {modules[0]} {(rank, scale)}")
            keys = {end: _key(tensors, f"{PREFIX}{module}.{end}") for end in shapes}
            used |= set(keys.values())
            faults += [_fault(key, tensors.get(key), shapes[end]) for end, key in keys.items()]
            kernels.append({end: tensors.get(key) for end, key in keys.items()})
        if faults := [fault for fault in faults if fault]:
            wrong += faults
            continue
        adapters[path] = {part: jnp.asarray(x) for part, x in from_peft(kernels, entry, convolution(entry)).items()}
        entries.append(entry._replace(dtype=adapters[path]["a"].dtype))
    wrong += [f"{key} belongs to no leaf of the base" for key in tensors if key not in used]
    if wrong or not entries:
        raise CheckpointError(
            f"{directory} does not fit the base: {'; '.join(wrong[:5]) or 'it has no adapters'}"
            f"{f'; and {len(wrong) - 5} more' * (len(wrong) > 5)}. See names= and layouts= if the base is the right one."
        )
    return adapters, Spec(entries)


def _modules(path: str, layout: Layout, shape: Sequence[int], names: Names) -> Iterator[tuple[tuple[int, ...], str]]:
    """Places in the stack and the module at each; one without a place for a kernel by itself."""
    for index in itertools.product(*(range(shape[axis]) for axis in layout.batch)):
        yield index, names(path, index)


def _alpha(entry: Adapted, scaling: Callable[[float, int], float]) -> float | int:
    """The α of a scale, the rounder of those that give it to the bit."""
    exact = entry.scale / scaling(1.0, entry.rank)
    tidy = round(exact, 9)
    alpha = tidy if scaling(tidy, entry.rank) == entry.scale else exact
    return int(alpha) if alpha == int(alpha) else alpha


def _pattern(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """Values by module where they differ from the usual one, or where another's pattern would also take the module."""
    kept = {module for module, value in values.items() if value != usual}
    taken = lambda module: any(module.endswith(f".{other}") and values[other] != values[module] for other in kept)
    kept |= {module for module in values if taken(module)}
    return {module: values[module] for module in sorted(kept, key=len, reverse=True)}


def _resolved(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Rank and scale of a module; a pattern takes names that end in it, the first one holds, as in PEFT."""

    def of(patterns: str, usual: str) -> Any:
        found = (value for key, value in (config.get(patterns) or {}).items() if re.match(rf"(.*\.)?({key})$", module))
        return next(found, config.get(usual, 8))

    rank, alpha = int(of("rank_pattern", "r")), of("alpha_pattern", "lora_alpha")
    return rank, float((rank_stabilized if config.get("use_rslora") else standard)(alpha, rank))


def _key(tensors: Tensors, key: str) -> str:
    """PEFT versions write the magnitude with and without `.weight`."""
    return f"{key}.weight" if key.endswith(MAGNITUDE) and f"{key}.weight" in tensors else key


def _fault(key: str, tensor: np.ndarray | None, shape: tuple[int, ...]) -> str | None:
    if tensor is None:
        return f"{key} is missing"
    return None if tensor.shape == shape else f"{key} has shape {tensor.shape}, expected {shape}"


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], Tensors]:
    load = _safetensors().load_file

    def refuse(what: str, error: Exception | None = None) -> NoReturn:
        raise CheckpointError(f"{folder} {what}; expected {CONFIG} and {TENSORS} as PEFT writes them.") from error

    if absent := [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]:
        refuse(f"has no {' and no '.join(absent)}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = {name: np.asarray(tensor) for name, tensor in load(folder / TENSORS).items()}
    except Exception as error:  # safetensors raises a class of its own
        refuse(f"cannot be read ({type(error).__name__}: {error!s:.200})", error)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        refuse(f"holds {config.get('peft_type') if isinstance(config, dict) else type(config).__name__}, not LORA")
    return config, tensors


def _safetensors() -> Any:
    try:
        import safetensors.flax
    except ImportError as error:
        raise ImportError('PEFT files are read and written with safetensors: pip install "clujax[weights]".') from error
    return safetensors.flax
