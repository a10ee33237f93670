"""One optimizer step of adapters beside a frozen base: plain LoRA, Flat-LoRA, and what composes with them."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, ScalarLike

from clujax.geometry.perturb import Sampler, Scale, check_sigma, normal, only_when, scalar_value_and_grad, step_key
from clujax.lora.adapters import Adapters, merge
from clujax.lora.flat import draws, entry_std, perturbed, sq_norms, with_draws
from clujax.lora.rules import Spec

# Folded into a step's key for the loss's own randomness; noise folds in hashes of paths.
_LOSS = 1


class LoraState(NamedTuple):
    """What changes in training. The base does not: it goes in beside the state."""

    adapters: Adapters
    opt_state: Any
    step: Int[Array, ""]
    key: PRNGKeyArray


class Noise(NamedTuple):
    """When noise is drawn anew within a step: `of(step's key, micro-batch) -> key`, and over which mesh axis, if any."""

    of: Callable[[PRNGKeyArray, Any], PRNGKeyArray]
    axis: str | None = None


per_step = Noise(lambda key, micro: key)
per_microbatch = Noise(jax.random.fold_in)


def per_shard(axis: str = "data") -> Noise:
    """Each part of the batch along a mesh axis has its own noise: the mean over parts has less variance at no cost."""
    return Noise(lambda key, micro: jax.random.fold_in(key, jax.lax.axis_index(axis)), axis)


def init_state(adapters: Adapters, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> LoraState:
    """The state before step 0; arrays are copied, as a step donates its state.

    Raises:
      TypeError: `key` is not a typed key.
    """
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise TypeError(f"key must be a typed key from jax.random.key(seed), got {key!r:.80}")
    copied = jax.tree.map(jnp.copy, (adapters, optimizer.init(adapters), key))
    return LoraState(copied[0], copied[1], jnp.zeros((), jnp.int32), copied[2])


def make_step(
    loss_fn: Callable[[PyTree, Any, PRNGKeyArray], tuple[Array, dict]],
    spec: Spec,
    optimizer: optax.GradientTransformation,
    sigma: ScalarLike | optax.Schedule = 0,
    *,
    accumulate: int = 1,
    every: int = 1,
    noise: Noise = per_step,
    num_samples: int = 1,
    antithetic: bool = False,
    weight: float = 1.0,
    sampler: Sampler = normal,
    extra: Scale | None = None,
    deviation: Callable[..., Array] = entry_std,
    before_norm: bool = False,
    materialize: bool = False,
    prepare: Callable[[PyTree], PyTree] = lambda base: base,
    factors_of: Callable[[Any], Adapters] = lambda trained: trained,
    mesh: Mesh | None = None,
    donate: bool = True,
) -> Callable[..., tuple[LoraState, dict]]:
    """Compile `step(state, base, batch, known=None) -> (state, metrics)`; with σ = 0 (the default) plain LoRA.

    The gradient of λ·E L(W' + ε) + (1 − λ)·L(W') with respect to the adapters reaches the optimizer, and so does `grad_fn`,
    the same gradient as a function of (adapters, i): `optax.contrib.sam` in opaque mode is LoRA-SAM here. The optimizer, with
    decay and clipping in it, sees clean adapters. The base is an argument that is only read, in whatever dtype.

    Args:
      loss_fn: `loss_fn(params, batch, key) -> (scalar, dict of scalars)` of the merged tree.
      spec: from `build_spec`.
      optimizer: any optax transformation on the adapters.
      sigma: σ or a schedule of it over optimizer steps (`transforms.cosine_increase`).
      accumulate: micro-batches a step; the leading axis of every leaf of the batch must divide by it.
      every: noise on every such step only; the others draw nothing.
      noise: `per_step` (one draw for all micro-batches), `per_microbatch`, or `per_shard(axis)` (needs `mesh`).
      num_samples, antithetic: draws a micro-batch, and whether they come in pairs of opposite sign.
      weight: λ; below 1 the gradient at the merged weights is computed too.
      sampler, extra, deviation, before_norm: as in `perturbed`.
      materialize: keep one noisy copy of the adapted kernels for the step instead of drawing it again for each micro-batch.
      prepare: makes the float tree that the spec describes from what is stored (dequantise); identity when nothing is.
      factors_of: makes the adapters of what is trained, where that is another tree (`rank_allocation.factors`).
      mesh: with `per_shard`, the mesh that the batch is split over.
      donate: reuse the memory of the incoming state.

    Returns:
      The step. `known` are the base's `sq_norms`, worked out once instead of in every step. Metrics: those of `loss_fn`
      (means), `loss`, `grad_norm`, `sigma`, `finite`. `step.jitted` is the compiled function, `step.optimizer` the
      transformation whose state `init_state` makes.

    Raises:
      ValueError: a setting out of range; at the first call, a batch that does not divide or a loss that is no scalar.

    Warns:
      UserWarning: one draw for all devices of a mesh, and a key whose bits depend on the mesh.

    Cost: `accumulate` · `num_samples` gradients of a micro-batch (twice with λ < 1), with a random number a perturbed weight
    for each.
    Source: Li et al. 2025, section 3.3.

    Example:
      >>> from clujax import lora
      >>> base = {"kernel": jnp.ones((4, 2))}
      >>> spec = lora.build_spec(base, [lora.LoraRule("kernel", rank=1)])
      >>> adapters, base = lora.init(jax.random.key(0), base, spec)
      >>> step = lora.make_step(lambda p, x, k: (jnp.mean((x @ p["kernel"]) ** 2), {}), spec, optax.sgd(0.01), sigma=0.1)
      >>> state = lora.init_state(adapters, optax.sgd(0.01), jax.random.key(1))
      >>> state, metrics = step(state, base, jnp.eye(4))
      >>> int(state.step), bool(metrics["finite"])
      (1, True)
    """
    _check(accumulate=accumulate, every=every, num_samples=num_samples)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected a number in [0, 1].")
    if antithetic and num_samples % 2:
        raise ValueError(f"num_samples is {num_samples}; antithetic draws come in pairs.")
    if noise.axis is not None and (mesh is None or noise.axis not in mesh.axis_names):
        raise ValueError(f"noise per shard of {noise.axis!r} needs a mesh with that axis; got {mesh}.")
    if materialize and (noise.of is not per_step.of or num_samples > 1):
        raise ValueError("materialize keeps one draw a step; it goes with noise=per_step and num_samples=1.")
    check_sigma(sigma(0) if callable(sigma) else sigma)
    optimizer = optax.with_extra_args_support(optimizer)
    silent = isinstance(sigma, int | float) and sigma == 0
    value_and_grad = scalar_value_and_grad(lambda a, place, batch, key: loss_fn(place(a), batch, key), has_aux=True)
    options = {"extra": extra, "deviation": deviation, "before_norm": before_norm}

    def clean(adapters: Adapters, base: PyTree, batch: Any, key: PRNGKeyArray) -> Any:
        return value_and_grad(adapters, lambda a: merge(base, factors_of(a), spec), batch, key)

    def noisy(
        adapters: Adapters,
        base: PyTree,
        batch: Any,
        key: PRNGKeyArray,
        drawn: Any,
        known: Any,
        strength: Any,
        at_step: Sampler,
    ):
        def draw(i: int) -> Any:
            sign = -1.0 if antithetic and i % 2 else 1.0
            index = i // 2 if antithetic else i
            signed = lambda k, shape, dtype: sign * at_step(k, shape, dtype)
            at = jax.random.fold_in(drawn, index) if index else drawn
            place = lambda a: perturbed(base, factors_of(a), spec, at, strength, sampler=signed, known=known, **options)
            return value_and_grad(adapters, place, batch, key)

        return _mean([draw(i) for i in range(num_samples)])

    def gradient(
        adapters: Adapters, base: PyTree, batch: Any, step: Array, key: PRNGKeyArray, strength: Any, known: Any
    ) -> Any:
        """Value and gradient over all micro-batches."""
        at, kept = step_key(key, step), None
        at_step = only_when(step % every == 0, sampler) if every > 1 else sampler
        if not silent:
            known = sq_norms(base, spec) if known is None else known
        if materialize and not silent:
            kept = draws(base, factors_of(adapters), spec, at, strength, sampler=at_step, known=known, **options)

        def micro(i: Array, part: Any) -> Any:
            own = jax.random.fold_in(at, _LOSS)
            own = own if accumulate == 1 else jax.random.fold_in(own, i)
            if silent:
                return clean(adapters, base, part, own)
            if kept is not None:
                place = lambda a: with_draws(base, factors_of(a), spec, kept, before_norm=before_norm)
                found = value_and_grad(adapters, place, part, own)
            else:
                found = noisy(adapters, base, part, own, noise.of(at, i), known, strength, at_step)
            return found if weight == 1 else _mix(found, clean(adapters, base, part, own), weight)

        if accumulate == 1:
            return micro(jnp.zeros((), jnp.int32), batch)
        parts = jax.tree.map(lambda leaf: _split(leaf, accumulate), batch)
        # XLA on CPU runs convolutions inside a loop many times slower than outside.
        unroll = accumulate if jax.default_backend() == "cpu" else 1
        _, each = jax.lax.scan(lambda _, at: (None, micro(*at)), None, (jnp.arange(accumulate), parts), unroll=unroll)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0).astype(leaf.dtype), each)

    def over_shards(*arguments: Any) -> Any:
        mean = lambda *given: jax.tree.map(lambda x: jax.lax.pmean(x, noise.axis), gradient(*given))
        specs = (P(), P(), P(noise.axis), P(), P(), P(), P())
        return jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(*arguments)

    whole = gradient if noise.axis is None else over_shards

    def call(state: LoraState, base: PyTree, batch: Any, known: Any = None) -> tuple[LoraState, dict]:
        base = prepare(base)
        strength = sigma(state.step) if callable(sigma) else sigma
        if every > 1 and not silent:
            strength = jnp.where(state.step % every == 0, strength, 0.0)
        at = lambda adapters: whole(adapters, base, batch, state.step, state.key, strength, known)
        (loss, told), slope = at(state.adapters)
        grad_fn = lambda adapters, i: at(adapters)[1]
        updates, opt_state = optimizer.update(slope, state.opt_state, state.adapters, grad_fn=grad_fn)
        size = optax.tree.norm(slope)
        finite = jnp.isfinite(loss) & jnp.isfinite(size) & jnp.isfinite(strength)
        metrics = told | {
            "loss": loss,
            "grad_norm": size,
            "sigma": jnp.asarray(strength, jnp.float32),
            "finite": finite,
        }
        adapters = optax.apply_updates(state.adapters, updates)
        return LoraState(adapters, opt_state, state.step + 1, state.key), metrics

    jitted = jax.jit(call, donate_argnums=(0,) if donate else ())

    def step(state: LoraState, base: PyTree, batch: Any, known: Any = None) -> tuple[LoraState, dict]:
        if not silent and noise.axis is None:
            _warn_of_key(state.key, (base, batch))
        return jitted(state, base, batch, known)

    step.jitted, step.call, step.optimizer = jitted, call, optimizer
    return step


def _warn_of_key(key: PRNGKeyArray, arrays: PyTree) -> None:
    """Say so when common noise would depend on how arrays lie on a mesh."""
    kind = str(jax.random.key_impl(key))
    if "threefry" in kind and jax.config.jax_threefry_partitionable:
        return
    spread = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(arrays))
    if any(place is not None and len(place.device_set) > 1 for place in spread):
        warnings.warn(
            f"the noise of one draw a step comes from a key of kind {kind}, whose bits depend on the mesh; for the same "
            "noise under any sharding use jax.random.key(seed, impl='threefry2x32') with jax_threefry_partitionable",
            stacklevel=3,
        )


def _mean(found: list) -> Any:
    return found[0] if len(found) == 1 else jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found)


def _mix(noisy: Any, clean: Any, weight: float) -> Any:
    return jax.tree.map(lambda a, b: weight * a + (1 - weight) * b, noisy, clean)


def _split(leaf: Array, parts: int) -> Array:
    if leaf.shape[0] % parts:
        raise ValueError(
            f"the batch has {leaf.shape[0]} rows, which do not divide into accumulate={parts} micro-batches."
        )
    # Part j takes the rows j, j + parts, ...: every device has rows in every part, and none changes its place.
    return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; expected an integer of at least 1.")
