"""Batches of any subset of the resident training rows, without a program for each size of the subset."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from clujax.data import gather


def rows_at(
    columns: Mapping[str, Any],
    rows: Int[np.ndarray, " n"],
    batch_size: int,
    key: PRNGKeyArray,
    *,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[[SupportsIndex], dict[str, jax.Array]]:
    """`batch_at(step)` over the chosen rows, from an endless stream of orders of them, one an epoch.

    A row's place in an order follows from its own random number, drawn by (key, epoch, row). Every batch has `batch_size`
    rows and nothing is compiled for a subset of another size.

    Args:
      columns: training columns on the device, all `[N, ...]`.
      rows: which of them.
      batch_size: rows in a batch.
      key: of the orders.
      sharding: where to lay a batch.

    Raises:
      ValueError: no rows.
    """
    if not len(rows):
        raise ValueError("there are no rows to make batches of.")
    count, total = len(rows), len(next(iter(columns.values())))
    orders: dict[int, np.ndarray] = {}

    def order(epoch: int) -> np.ndarray:
        if epoch not in orders:
            while len(orders) >= 4:
                orders.pop(next(iter(orders)))
            orders[epoch] = rows[np.argsort(np.asarray(_numbers(key, epoch, total))[rows], kind="stable")]
        return orders[epoch]

    def batch_at(step: SupportsIndex) -> dict[str, jax.Array]:
        epoch, place = divmod(int(step) * batch_size, count)
        if place + batch_size <= count:
            return gather(columns, order(epoch)[place : place + batch_size], sharding=sharding)
        positions = np.arange(int(step) * batch_size, (int(step) + 1) * batch_size)
        epochs = positions // count
        found = [order(int(epoch))[positions[epochs == epoch] % count] for epoch in np.unique(epochs)]
        return gather(columns, np.concatenate(found), sharding=sharding)

    return batch_at


@partial(jax.jit, static_argnames="total")
def _numbers(key, epoch, total):
    return jax.random.bits(jax.random.fold_in(key, epoch), (total,))
