"""Rehearsal memory: placeholder for the interface; see the signatures."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree


class Memory(NamedTuple):
    rows: Int[Array, " M"]
    x: Array
    y: Int[Array, " M"]
    logits: Float[Array, "M C"]
    valid: Bool[Array, " M"]


def empty(capacity: int, columns: Mapping[str, Any], num_classes: int, *, keep_logits: bool = False) -> Memory: ...


def purge(memory: Memory, gone: Any) -> Memory: ...


def reservoir(memory: Memory, batch: Mapping[str, Any], keep: Any, key: PRNGKeyArray) -> Memory: ...


def balanced(memory: Memory, batch: Mapping[str, Any], keep: Any, key: PRNGKeyArray) -> Memory: ...


def insert_rows(
    memory: Memory,
    columns: Mapping[str, Any],
    rows: Any,
    key: PRNGKeyArray,
    *,
    policy: Callable = reservoir,
    apply: Callable | None = None,
    params: PyTree = None,
    stats: PyTree = None,
) -> Memory: ...


def sample(memory: Memory, key: PRNGKeyArray, batch_size: int) -> dict[str, jax.Array]: ...


def size(memory): ...
