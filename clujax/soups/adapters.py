"""Pools of low-rank adapters on one base: models that are never formed, with inner products in closed form."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from clujax.geometry import lowrank
from clujax.geometry.layouts import Layout
from clujax.geometry.mixing import Groups, wide
from clujax.geometry.paths import named, replaced, shown
from clujax.soups.directions import Normalize, Span, unit
from clujax.soups.pools import struct_of

# A direction's squared norm is a difference of products of factors, which rounds at 1e-7 of the largest.
DEGENERATE = 1e-3


@runtime_checkable
class Attached(Protocol):
    """How an adapter sits on a kernel: W + scale·a·b with these axes."""

    layout: Layout
    scale: float


class AdapterPool:
    """θ_k = base + Σ_paths scale·a_k·b_k. A block of all K has inner products without forming any θ_k."""

    def __init__(
        self,
        base: PyTree,
        adapters: Sequence[Mapping[str, Mapping[str, Array]]],
        spec: Mapping[str, Attached] | Iterable[Attached],
        names: Sequence[str] | None = None,
    ):
        """Keep base and factors.

        Args:
            base: the model that all adapters were trained on.
            adapters: {path: {"a": ..., "b": ...}} each, of the same paths; ranks may differ.
            spec: path -> anything with `layout` and `scale`; or such things with a `name`, as `lora.build_spec` gives them.
            names: of the adapters.

        Raises:
            ValueError: a path that base or spec lacks, factors that do not fit their kernel, none at all.
        """
        if not adapters:
            raise ValueError("a pool needs models; got no adapter.")
        spec = spec if isinstance(spec, Mapping) else {entry.name: entry for entry in spec}
        leaves, paths = named(base), list(adapters[0])
        for k, adapter in enumerate(adapters):
            if set(adapter) != set(paths):
                odd = sorted(set(adapter) ^ set(paths))
                raise ValueError(f"adapter {k} has other paths than adapter 0: {shown(odd, 5)}.")
            for path, pair in adapter.items():
                if path not in leaves or path not in spec:
                    where = "base" if path not in leaves else "spec"
                    raise ValueError(f"adapter {k} is for {path!r}, which the {where} does not have: {shown(leaves)}.")
                for side, expected in zip("ab", _shapes(leaves[path].shape, pair["a"], spec[path].layout)):
                    if tuple(pair[side].shape) != expected:
                        raise ValueError(
                            f"adapter {k}, {path!r}: {side} has shape {tuple(pair[side].shape)}; expected {expected} for a "
                            f"kernel of shape {tuple(leaves[path].shape)} and {spec[path].layout}."
                        )
                    if not np.isfinite(np.asarray(pair[side], np.float32)).all():
                        raise ValueError(f"adapter {k} is not finite in {path!r}; leave it out.")
        self.base, self.adapters, self.spec = base, list(adapters), dict(spec)
        self.names = [f"adapter_{k}" for k in range(len(adapters))] if names is None else list(names)
        self.struct = struct_of(base)
        self._stacked = {path: _stacked([adapter[path] for adapter in adapters], spec[path].layout) for path in paths}

    def __len__(self) -> int:
        return len(self.adapters)

    def load(self, k: int, paths: Sequence[str] | None = None) -> PyTree:
        """Model k, formed; see `Pool`."""
        leaves = named(self.base)
        grown = {
            path: (wide(leaves[path]) + lowrank.delta(pair["a"], pair["b"], self.spec[path].scale, self.spec[path].layout))
            .astype(leaves[path].dtype)
            for path, pair in self.adapters[k].items()
        }  # fmt: skip
        if paths is None:
            return replaced(self.base, grown)
        return {path: np.asarray(grown.get(path, leaves[path])) for path in paths}

    @property
    def factors(self) -> dict[str, dict[str, Array]]:
        """Factors by path with a leading axis over the adapters; smaller ranks are filled with zeros."""
        return self._stacked


class LowRankDirections(NamedTuple):
    """Directions scale_k·(Δ_k − Σ_j r_j Δ_j) as factors, with the reference's mixing weights r."""

    factors: dict[str, dict[str, Array]]
    scale: Float[Array | np.ndarray, "K L"]
    origin: Float[Array | np.ndarray, "K L"]


def span(pool: AdapterPool, groups: Groups) -> Span:
    """`mix` and `project` on factors: 2·K·r·n·m operations each, and no tree per model."""
    group_of = dict(zip(named(pool.struct), groups.of))
    spec = pool.spec

    def add(leaf, pair, coefficients, path):
        a = wide(pair["a"]) * (coefficients * spec[path].scale).reshape(-1, *[1] * (pair["a"].ndim - 1))
        layout = spec[path].layout
        # All adapters at once as one adapter of rank K·r.
        return (wide(leaf) + lowrank.delta(*_joined(a, wide(pair["b"]), layout), 1.0, layout)).astype(leaf.dtype)

    def mix(center, directions, x):
        step = x * directions.scale
        on_delta = step - directions.origin * step.sum(0)
        leaves = named(center)
        grown = {
            path: add(leaves[path], pair, on_delta[:, group_of[path]], path)
            for path, pair in directions.factors.items()
        }
        return replaced(center, grown)

    def project(gradient, directions):
        leaves = named(gradient)
        inner = jnp.zeros_like(directions.scale)
        for path, pair in directions.factors.items():
            each = jax.vmap(lowrank.inner, (None, 0, 0, None, None))
            found = each(leaves[path], pair["a"], pair["b"], spec[path].scale, spec[path].layout)
            inner = inner.at[:, group_of[path]].add(found)
        return directions.scale * (inner - (directions.origin * inner).sum(0))

    return Span(mix, project)


def directions(
    pool: AdapterPool, origin: Float[np.ndarray, "K L"], groups: Groups, normalize: Normalize = unit
) -> tuple[LowRankDirections, Float[Array | np.ndarray, "K L"]]:
    """Directions from the point of mixing weights `origin` to every adapter, and their scale as in `block_directions`."""
    group_of = dict(zip(named(pool.struct), groups.of))
    gram = np.zeros((len(groups.names), len(pool), len(pool)))
    for path, pair in pool.factors.items():
        gram[group_of[path]] += _gram(pair, pool.spec[path].scale, pool.spec[path].layout)
    weights = np.asarray(origin, float).T  # [L, K]
    cross = np.einsum("lkj,lj->lk", gram, weights)
    own = np.einsum("lkk->lk", gram)
    squares = own - 2 * cross + np.einsum("lj,lj->l", cross, weights)[:, None]
    norms = np.sqrt(np.maximum(squares, 0)).T
    alive = norms > DEGENERATE * np.sqrt(own.max(1))
    scale = jnp.where(alive, normalize(jnp.asarray(norms, jnp.float32), jnp.asarray(alive)), 0.0)
    return LowRankDirections(pool.factors, scale, jnp.asarray(origin, jnp.float32)), scale


def _gram(pair: Mapping[str, Array], scale: float, layout: Layout) -> np.ndarray:
    one = lambda a, b, c, d: lowrank.gram((a, b), (c, d), (scale, scale), layout)
    rows = jax.vmap(jax.vmap(one, (None, None, 0, 0)), (0, 0, None, None))
    return np.asarray(rows(pair["a"], pair["b"], pair["a"], pair["b"]), float)


def _shapes(kernel: Sequence[int], a: Any, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return lowrank.factor_shapes(kernel, a.shape[-1], layout)


def _stacked(pairs: Sequence[Mapping[str, Array]], layout: Layout) -> dict[str, Array]:
    rank, axis = max(pair["a"].shape[-1] for pair in pairs), len(layout.batch)

    def grown(leaf, at):
        more = [(0, 0)] * leaf.ndim
        more[at] = (0, rank - leaf.shape[at])
        return jnp.pad(jnp.asarray(leaf), more)

    return {
        "a": jnp.stack([grown(pair["a"], pair["a"].ndim - 1) for pair in pairs]),
        "b": jnp.stack([grown(pair["b"], axis) for pair in pairs]),
    }


def _joined(a: Array, b: Array, layout: Layout) -> tuple[Array, Array]:
    """Factors [K, ..., r] and [K, *B, r, ...] as those of rank K·r."""
    axis = len(layout.batch)
    a = jnp.moveaxis(a, 0, -2)
    b = jnp.moveaxis(b, 0, axis)
    return a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:axis], -1, *b.shape[axis + 2 :])
