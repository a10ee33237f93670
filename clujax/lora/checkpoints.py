"""Adapters on disk without their base, which is named by its digest."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from clujax.errors import CheckpointError
from clujax.geometry.layouts import Layout
from clujax.geometry.paths import shown
from clujax.lora.adapters import Adapters, check
from clujax.lora.initializations import trained
from clujax.lora.rules import Adapted, Spec
from clujax.training.checkpoint import Checkpoints, committed, read_arrays
from clujax.training.digest import tree_digest


def spec_record(spec: Spec) -> list[dict[str, Any]]:
    """The spec as JSON can hold it; the initialisation by its name."""
    return [
        entry._asdict()
        | {
            "shape": list(entry.shape),
            "layout": {"fan_in": list(entry.layout.fan_in), "batch": list(entry.layout.batch)},
            "init": entry.init.name,
            "dtype": jnp.dtype(entry.dtype).name,
        }
        for entry in spec
    ]


def spec_from_record(record: list[dict[str, Any]]) -> Spec:
    """The spec of a record. It fits trained adapters; new ones cannot begin from it."""
    return Spec(
        Adapted(
            **entry
            | {
                "shape": tuple(entry["shape"]),
                "layout": Layout(tuple(entry["layout"]["fan_in"]), tuple(entry["layout"]["batch"])),
                "init": trained,
                "dtype": jnp.dtype(entry["dtype"]),
            }
        )
        for entry in record
    )


def save_adapters(
    directory: str | os.PathLike,
    adapters: Adapters,
    spec: Spec,
    base: PyTree | str,
    *,
    step: int = 0,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write adapters, their spec and the digest of their base, whole or not at all; the base itself is not written.

    Args:
      directory: of these adapters alone.
      base: the base that `init` gave back (moved by PiSSA and its like), or its `training.digest.tree_digest` where it is
        known: hashing reads every weight.
      step: training step; the two newest stay.
      extra: a JSON-able dict.

    Raises:
      ValueError: adapters that do not fit the spec.
      CheckpointError: they could not be written.
    """
    check(adapters, spec)
    header = {"adapters_of": _digest(base), "spec": spec_record(spec), "extra": extra or {}}
    with Checkpoints(directory, background=False) as kept:
        kept.save(step, adapters, header)


def restore_adapters(
    directory: str | os.PathLike, base: PyTree | str, spec: Spec | None = None
) -> tuple[int, Adapters, Spec, dict[str, Any]]:
    """Read the newest whole adapters back, onto the base that they were trained with.

    Args:
      base: that base, or its digest.
      spec: the spec that they must have (its initialisations do not matter); None takes what is there.

    Returns:
      `(step, adapters, spec, extra)`, bit for bit.

    Raises:
      CheckpointError: nothing is there or it is damaged; it belongs to another base, or has another spec.
    """
    steps = committed(directory)
    if not steps:
        raise CheckpointError(f"{directory} has no adapters; expected a folder that save_adapters wrote.")
    faults = []
    for step in reversed(steps):
        try:
            arrays, header = read_arrays(directory, step)
            break
        except CheckpointError as error:
            faults.append(str(error))
    else:
        raise CheckpointError("; ".join(faults))
    if "adapters_of" not in header:
        raise CheckpointError(f"{directory} holds a checkpoint, but not one of adapters by save_adapters.")
    if header["adapters_of"] != (digest := _digest(base)):
        raise CheckpointError(
            f"the adapters in {directory} were trained on the base {header['adapters_of'][:12]}…, this one is "
            f"{digest[:12]}…; give that base (after PiSSA, OLoRA or LoRA-GA the one that init gave back)."
        )
    there = spec_from_record(header["spec"])
    if spec is not None and (other := _differing(there, spec)):
        raise CheckpointError(f"the adapters in {directory} have another spec: {shown(other, 5)}.")
    like = {
        entry.name: {part: None for part in ("a", "b", "magnitude")[: 3 if entry.magnitude else 2]} for entry in there
    }
    flat, tree = jax.tree_util.tree_flatten_with_path(like, is_leaf=lambda leaf: leaf is None)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat]
    adapters = jax.tree.unflatten(tree, [jnp.asarray(arrays[name]) for name in names])
    check(adapters, there)
    return step, adapters, there if spec is None else spec, header["extra"]


def _digest(base: PyTree | str) -> str:
    return base if isinstance(base, str) else tree_digest(base)


def _differing(there: Spec, spec: Spec) -> list[str]:
    """What differs, in words."""
    old, new = ({entry.name: entry._replace(init=trained) for entry in each} for each in (there, spec))
    found = [
        f"{name} is {'absent there' if name in new else 'there alone'}" for name in sorted(old.keys() ^ new.keys())
    ]
    for name in sorted(old.keys() & new.keys()):
        found += [
            f"{name} has {field} {before} there and {after} here"
            for field, before, after in zip(Adapted._fields, old[name], new[name])
            if before != after
        ]
    return found
