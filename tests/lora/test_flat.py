"""Noise on merged kernels: deviation of eq. 7, identities V1 to V16 of a step, and what a step may not do to the base."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clujax import geometry, lora, training
from clujax.geometry import Layout, elementwise, lowrank
from clujax.geometry.perturb import noise
from clujax.lora.flat import constant_std, draws, with_draws
from clujax.transforms import cosine_increase

KEY = jax.random.key(0)
RULES = [lora.LoraRule("dense/kernel", 2, alpha=2.0), lora.LoraRule("out/kernel", 2, alpha=2.0)]


def base(dtype=jnp.float32):
    shapes = {"dense": {"kernel": (6, 5), "bias": (5,)}, "out": {"kernel": (5, 1, 3)}}
    leaves = jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(sum(shape)), shape).astype(dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return leaves


def model(params, x):
    hidden = jnp.tanh(x @ params["dense"]["kernel"].astype(jnp.float32) + params["dense"]["bias"].astype(jnp.float32))
    return jnp.einsum("bi,ijo->bo", hidden, params["out"]["kernel"].astype(jnp.float32))


def loss_fn(params, batch, key):
    error = model(params, batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


BATCH = {"x": jax.random.normal(jax.random.key(8), (8, 6)), "y": jax.random.normal(jax.random.key(9), (8, 3))}
SPEC = lora.build_spec(base(), [RULES[0], RULES[1]._replace(layout=Layout((0,)))])


def trained(spec=SPEC, dtype=jnp.float32):
    """Adapters away from their start, so that W and W + s·a·b differ."""
    adapters, there = lora.init(KEY, base(dtype), spec)
    moved = {
        name: {part: x + 0.3 * jax.random.normal(jax.random.key(len(name)), x.shape) for part, x in parts.items()}
        for name, parts in adapters.items()
    }
    return moved, there


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_deviation_is_that_of_the_merged_kernel():
    adapters, there = trained()
    merged = geometry.named(lora.merge(there, adapters, SPEC))
    for known in (None, lora.sq_norms(there, SPEC)):
        for name, std in lora.merged_std(there, adapters, SPEC, known).items():
            layout = SPEC[name].layout
            np.testing.assert_allclose(std, geometry.filter_std(merged[name], layout), rtol=1e-5)
            assert not np.allclose(std, geometry.filter_std(geometry.named(there)[name], layout), rtol=1e-2)


def test_deviation_where_the_adapter_cancels_the_kernel():
    kernel = jnp.ones((4, 2))
    spec = lora.build_spec({"kernel": kernel}, [lora.LoraRule("kernel", 1, alpha=1.0)])
    adapters = {"kernel": {"a": jnp.ones((4, 1)), "b": -jnp.ones((1, 2))}}
    for name, std in lora.merged_std({"kernel": kernel}, adapters, spec).items():
        np.testing.assert_array_equal(std, 0.0)
        assert name == "kernel"
    slope = jax.grad(lambda a: jnp.sum(lora.perturbed({"kernel": kernel}, a, spec, KEY, 0.5)["kernel"]))(adapters)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_a_draw_is_the_ground_floors_noise_on_the_merged_tree():
    adapters, there = trained()
    merged = lora.merge(there, adapters, SPEC)
    expected = geometry.perturb(merged, KEY, 0.3, geometry.filter_wise(SPEC.layouts))
    close(lora.perturbed(there, adapters, SPEC, KEY, 0.3), expected, 1e-5)
    equal(lora.perturbed(there, adapters, SPEC, KEY, 0), merged)
    text = jax.jit(lambda a: lora.perturbed(there, a, SPEC, KEY, 0)).lower(adapters).as_text()
    assert "threefry" not in text
    assert "rng" not in text


def test_nothing_flows_through_the_deviation():
    """The gradient of a and b is that at the noisy kernel held in place: s·aᵀG and s·G·bᵀ."""
    adapters, there = trained()
    at = lambda a: loss_fn(lora.perturbed(there, a, SPEC, KEY, 0.4), BATCH, KEY)[0]
    noisy = lora.perturbed(there, adapters, SPEC, KEY, 0.4)
    outer = geometry.named(jax.grad(lambda p: loss_fn(p, BATCH, KEY)[0])(noisy))
    found = jax.grad(at)(adapters)
    for entry in SPEC:
        g = lowrank.to_matrix(outer[entry.name], entry.layout)
        a, b = adapters[entry.name]["a"].reshape(-1, 2), adapters[entry.name]["b"].reshape(2, -1)
        np.testing.assert_allclose(found[entry.name]["a"].reshape(-1, 2), entry.scale * g @ b.T, atol=2e-5)
        np.testing.assert_allclose(found[entry.name]["b"].reshape(2, -1), entry.scale * a.T @ g, atol=2e-5)


def test_mean_over_draws_is_the_gradient_of_the_expected_loss():
    """On a quadratic E L(W' + ε) = L(W') + ½ Σ H std², with its curvature known."""
    kernel, y = base()["dense"]["kernel"], BATCH["y"][:, :1]
    spec = lora.build_spec({"kernel": kernel[:, :1]}, [lora.LoraRule("kernel", 1)])
    there = {"kernel": kernel[:, :1]}
    adapters = {"kernel": {"a": jnp.full((6, 1), 0.2), "b": jnp.full((1, 1), -0.1)}}
    loss = lambda p: 0.5 * jnp.mean((BATCH["x"] @ p["kernel"] - y) ** 2)
    values = jax.jit(jax.vmap(lambda k: loss(lora.perturbed(there, adapters, spec, k, 0.5))))(
        jax.random.split(KEY, 20_000)
    )
    std = 0.5 * float(lora.merged_std(there, adapters, spec)["kernel"][0, 0])
    curvature = np.mean(np.square(np.asarray(BATCH["x"])), 0)
    expected = float(loss(lora.merge(there, adapters, spec))) + 0.5 * float(curvature.sum()) * std**2
    assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / np.sqrt(len(values))


def test_dora_is_perturbed_by_its_magnitude_or_before_its_norm():
    spec = lora.build_spec(base(), [lora.LoraRule("dense/kernel", 2, magnitude=True)])
    adapters, there = trained(spec)
    merged = geometry.named(lora.merge(there, adapters, spec))["dense/kernel"]
    std = lora.merged_std(there, adapters, spec)["dense/kernel"]
    np.testing.assert_allclose(std, geometry.filter_std(merged, Layout((0,))), rtol=1e-5)
    name, entry = "dense/kernel", spec["dense/kernel"]
    before = geometry.named(lora.perturbed(there, adapters, spec, KEY, 0.3, before_norm=True))[name]
    np.testing.assert_allclose(
        jnp.linalg.norm(before, axis=0), jnp.abs(adapters[name]["magnitude"][0]), rtol=1e-5
    )  # the norm is restored after the noise
    plain = lowrank.delta(adapters[name]["a"], adapters[name]["b"], entry.scale, entry.layout)
    drawn = draws(there, adapters, spec, KEY, 0.3, before_norm=True)[name]
    v = geometry.named(there)[name] + plain
    np.testing.assert_allclose(
        drawn / 0.3, noise(KEY, name, v.shape, geometry.filter_std(v, Layout((0,)))),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_further_leaves_and_isotropic_noise():
    adapters, there = trained()
    wide = lora.perturbed(there, adapters, SPEC, KEY, 0.3, extra=elementwise())
    narrow = lora.perturbed(there, adapters, SPEC, KEY, 0.3)
    equal(wide["dense"]["kernel"], narrow["dense"]["kernel"])
    equal(narrow["dense"]["bias"], there["dense"]["bias"])
    assert not np.allclose(wide["dense"]["bias"], there["dense"]["bias"])
    drawn = draws(there, adapters, SPEC, KEY, 0.3, deviation=constant_std)["dense/kernel"]
    close(drawn, 0.3 * jax.random.normal(geometry.leaf_key(KEY, "dense/kernel"), (6, 5)))
    equal(with_draws(there, adapters, SPEC, {}), there)


@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "model"), P("data", "model")])
def test_draws_have_the_same_bits_under_any_sharding(spec):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    kernel = jax.random.normal(KEY, (8, 4))
    one = lora.build_spec({"kernel": kernel}, [lora.LoraRule("kernel", 2)])
    adapters, there = lora.init(KEY, {"kernel": kernel}, one)
    unit = jax.jit(lambda b, a: draws(b, a, one, KEY, 1.0, deviation=constant_std)["kernel"])
    spread = jax.device_put(there, NamedSharding(mesh, spec))
    np.testing.assert_array_equal(unit(spread, adapters), unit(there, adapters))
    close(jax.jit(lambda b, a: lora.perturbed(b, a, one, KEY, 0.3))(spread, adapters),
          lora.perturbed(there, adapters, one, KEY, 0.3))  # fmt: skip


def stacked(depth, width=128):
    """A stack of square layers with adapters, and the loss through `scan_layers` at a strength."""
    one = {"kernel": jnp.zeros((width, width))}
    spec = lora.build_spec(one, [lora.LoraRule("kernel", 2)])
    kernels = {"kernel": jax.random.normal(KEY, (depth, width, width)) / np.sqrt(width)}
    adapters = jax.vmap(lambda k, w: lora.init(k, w, spec)[0])(jax.random.split(KEY, depth), kernels)
    x = jax.random.normal(KEY, (16, width))

    def loss(adapters, kernels, sigma):
        body = lambda p, h: jnp.tanh(h @ p["kernel"])
        return jnp.mean(lora.scan_layers(body, x, kernels, adapters, spec, KEY, sigma) ** 2)

    return loss, adapters, kernels, spec, x


def test_stacked_layers_have_their_own_noise():
    loss, adapters, kernels, spec, x = stacked(3, 8)
    h = x
    for i in range(3):
        at = jax.tree.map(lambda leaf: leaf[i], (kernels, adapters))
        h = jnp.tanh(h @ lora.perturbed(*at, spec, jax.random.fold_in(KEY, i), 0.3)["kernel"])
    np.testing.assert_allclose(loss(adapters, kernels, 0.3), jnp.mean(h**2), rtol=1e-5)
    plain = loss(adapters, kernels, 0)
    np.testing.assert_allclose(loss(adapters, kernels, jnp.float32(0.0)), plain, rtol=1e-6)


def test_memory_for_noise_does_not_grow_with_depth():
    """Beside plain LoRA that never forms a merged kernel: no layer's noise, merged kernel or a·b outlives the layer."""
    width = 128

    def over(depth):
        loss, adapters, kernels, spec, x = stacked(depth, width)
        scale = spec["kernel"].scale

        def plain(adapters, kernels):
            def layer(h, at):
                kernel, pair = at[0]["kernel"], at[1]["kernel"]
                return jnp.tanh(h @ kernel + scale * (h @ pair["a"]) @ pair["b"]), None

            return jnp.mean(jax.lax.scan(layer, x, (kernels, adapters))[0] ** 2)

        noisy = lambda adapters, kernels: loss(adapters, kernels, 0.1)
        temp = lambda f: jax.jit(jax.grad(f)).lower(adapters, kernels).compile().memory_analysis().temp_size_in_bytes
        return (temp(noisy) - temp(plain)) / (4 * width**2)

    assert over(8) <= 6
    assert over(16) <= over(8) + 0.5  # eight more layers have eight more kernels, and some vectors


def test_sam_at_a_gradient_of_zero_stays_finite():
    (adapters, there), tx = trained(), lora.lora_sam(optax.sgd(0.02), 0.05)
    flat = lambda p, batch, key: (0.0 * jnp.sum(p["dense"]["kernel"]), {})
    state, _ = run(lora.make_step(flat, SPEC, tx), adapters, there, tx, 1)
    equal(state.adapters, adapters)


def test_bad_input():
    adapters, there = trained()
    for sigma in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            lora.perturbed(there, adapters, SPEC, KEY, sigma)
    with pytest.raises(ValueError, match="missing"):
        lora.perturbed(there, {}, SPEC, KEY, 0.1)


# Steps.


def run(step, adapters, there, tx, steps=3, batch=BATCH, key=KEY):
    state = lora.init_state(adapters, tx, key)
    for _ in range(steps):
        state, metrics = step(state, there, batch)
    return state, metrics


def test_without_noise_it_is_plain_lora():
    """Also with a schedule that is 0, and at λ = 0."""
    (adapters, there), tx = trained(), optax.adam(0.01)

    def plain(a):
        return jax.grad(lambda a: loss_fn(lora.merge(there, a, SPEC), BATCH, KEY)[0])(a)

    expected, opt = adapters, tx.init(adapters)
    for _ in range(3):
        updates, opt = tx.update(plain(expected), opt)
        expected = optax.apply_updates(expected, updates)
    for options in ({}, {"sigma": lambda step: 0.0}, {"sigma": 0.5, "weight": 0.0}):
        state, metrics = run(lora.make_step(loss_fn, SPEC, tx, **options), adapters, there, tx)
        close(state.adapters, expected, 1e-4)
        assert bool(metrics["finite"])


def test_a_step_draws_from_the_key_of_the_step_and_compiles_once():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    step = lora.make_step(loss_fn, SPEC, tx, cosine_increase(0.4, 4))
    expected = adapters
    for i in range(3):
        sigma = 0.4 * 0.5 * (1 - np.cos(np.pi * i / 4))
        at = lambda a: loss_fn(lora.perturbed(there, a, SPEC, geometry.step_key(KEY, i), sigma), BATCH, KEY)[0]
        expected = jax.tree.map(lambda a, g: a - 0.02 * g, expected, jax.grad(at)(expected))
    state, metrics = run(step, adapters, there, tx)
    close(state.adapters, expected, 1e-5)
    np.testing.assert_allclose(metrics["sigma"], 0.2, rtol=1e-5)
    assert step.jitted._cache_size() == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_base_keeps_its_bits(dtype):
    adapters, there = trained(dtype=dtype)
    before = jax.tree.map(np.array, there)
    tx = optax.sgd(0.02)
    state, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.3), adapters, there, tx)
    equal(there, before)
    assert not np.allclose(state.adapters["dense/kernel"]["b"], adapters["dense/kernel"]["b"])


def test_a_quantised_base_is_read_through_a_hook():
    adapters, there = trained()
    scales = jax.tree.map(lambda x: jnp.max(jnp.abs(x)) / 127, there)
    stored = {"q": jax.tree.map(lambda x, s: jnp.round(x / s).astype(jnp.int8), there, scales), "s": scales}
    before = jax.tree.map(np.array, stored)
    unpack = lambda tree: jax.tree.map(lambda q, s: q.astype(jnp.float32) * s, tree["q"], tree["s"])
    tx = optax.sgd(0.02)
    state, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.3, prepare=unpack), adapters, stored, tx)
    equal(stored, before)
    expected, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.3), adapters, unpack(stored), tx)
    close(state.adapters, expected.adapters)


def test_accumulation_shares_one_draw():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    whole, told = run(lora.make_step(loss_fn, SPEC, tx, 0.4), adapters, there, tx)
    for options in ({}, {"materialize": True}):
        parts, metrics = run(lora.make_step(loss_fn, SPEC, tx, 0.4, accumulate=4, **options), adapters, there, tx)
        close(parts.adapters, whole.adapters, 1e-5)
        np.testing.assert_allclose(metrics["loss"], told["loss"], rtol=1e-5)
    own, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.4, accumulate=4, noise=lora.per_microbatch), adapters, there, tx)
    assert not np.allclose(own.adapters["dense/kernel"]["b"], whole.adapters["dense/kernel"]["b"], atol=1e-4)


def test_every_second_step_antithetic_pairs_and_the_mixed_objective():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    clean, _ = run(lora.make_step(loss_fn, SPEC, tx), adapters, there, tx, 1)
    noisy, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.4), adapters, there, tx, 1)
    mixed, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.4, weight=0.25), adapters, there, tx, 1)
    close(mixed.adapters, jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, noisy.adapters, clean.adapters), 1e-5)
    step = lora.make_step(loss_fn, SPEC, tx, 0.4, every=2)
    state = lora.init_state(adapters, tx, KEY)
    strengths, seen = [], []
    for _ in range(3):
        state, metrics = step(state, there, BATCH)
        strengths.append(float(metrics["sigma"]))
        seen.append(jax.tree.map(np.array, state.adapters))
    close(seen[0], noisy.adapters)
    plain = jax.grad(lambda a: loss_fn(lora.merge(there, a, SPEC), BATCH, KEY)[0])(seen[0])
    close(seen[1], jax.tree.map(lambda a, g: a - 0.02 * g, seen[0], plain), 1e-6)
    np.testing.assert_allclose(strengths, [0.4, 0.0, 0.4], rtol=1e-6)
    # A loss that is linear in the kernels: pairs of opposite sign leave nothing of the noise.
    linear = lambda p, batch, key: (jnp.sum(p["dense"]["kernel"]) + jnp.sum(p["out"]["kernel"]), {})
    pairs, _ = run(lora.make_step(linear, SPEC, tx, 0.4, num_samples=2, antithetic=True), adapters, there, tx, 1)
    still, told = run(lora.make_step(linear, SPEC, tx), adapters, there, tx, 1)
    close(pairs.adapters, still.adapters, 1e-5)
    assert np.isfinite(told["loss"])


def test_eight_devices_and_noise_of_each_shard():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    alone, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.4), adapters, there, tx)
    spread, _ = run(lora.make_step(loss_fn, SPEC, tx, 0.4), adapters, there, tx, batch=rows)
    close(spread.adapters, alone.adapters, 1e-5)
    shards, _ = run(
        lora.make_step(loss_fn, SPEC, tx, 0.4, noise=lora.per_shard("data"), mesh=mesh), adapters, there, tx, 1, rows
    )
    own = lambda i: loss_fn_at(adapters, there, jax.random.fold_in(geometry.step_key(KEY, 0), i), i)
    mean = jax.tree.map(lambda *g: sum(g) / 8, *[own(i) for i in range(8)])
    close(shards.adapters, jax.tree.map(lambda a, g: a - 0.02 * g, adapters, mean), 1e-5)


def loss_fn_at(adapters, there, key, row):
    part = jax.tree.map(lambda leaf: leaf[row : row + 1], BATCH)
    return jax.grad(lambda a: loss_fn(lora.perturbed(there, a, SPEC, key, 0.4), part, KEY)[0])(adapters)


def test_micro_batches_leave_rows_where_they_are_and_another_kind_of_key_is_told():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = jax.tree.map(lambda x: jnp.concatenate([x, x]), BATCH)
    rows = jax.device_put(rows, NamedSharding(mesh, P("data")))
    step = lora.make_step(loss_fn, SPEC, tx, 0.4, accumulate=2, donate=False)
    state = lora.init_state(adapters, tx, KEY)
    text = step.jitted.lower(state, there, rows).compile().as_text()
    assert "collective-permute" not in text
    assert "all-to-all" not in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(state, there, rows)
        step(lora.init_state(adapters, tx, jax.random.key(0, impl="rbg")), there, BATCH)
    with pytest.warns(UserWarning, match="rbg"):
        step(lora.init_state(adapters, tx, jax.random.key(0, impl="rbg")), there, rows)


def test_seeds_and_strengths_in_one_program():
    adapters, there = trained()
    tx = optax.sgd(0.02)

    def end(sigma, key):
        step = lora.make_step(loss_fn, SPEC, tx, sigma, donate=False)
        state = lora.init_state(adapters, tx, key)
        return jax.lax.scan(lambda s, _: (step.call(s, there, BATCH)[0], None), state, None, length=2)[0].adapters

    many = jax.jit(jax.vmap(end))(jnp.array([0.0, 0.4]), jax.random.split(KEY, 2))
    for i, sigma in enumerate((0.0, 0.4)):
        one = end(jnp.float32(sigma), jax.random.split(KEY, 2)[i])
        close(jax.tree.map(lambda leaf: leaf[i], many), one, 1e-5)


def test_resuming_gives_the_same_bits(tmp_path):
    (adapters, there), tx = trained(), optax.adam(0.01)
    step = lora.make_step(loss_fn, SPEC, tx, cosine_increase(0.4, 6))
    at = lambda state, batch: step(state, there, batch)
    whole, _ = training.fit(at, lora.init_state(adapters, tx, KEY), lambda i: BATCH, 6)
    with training.Checkpoints(tmp_path) as saved:
        training.fit(at, lora.init_state(adapters, tx, KEY), lambda i: BATCH, 3, checkpoints=saved)
    with training.Checkpoints(tmp_path) as saved:
        again, history = training.fit(
            at, lora.init_state(adapters, tx, jax.random.key(5)), lambda i: BATCH, 6, checkpoints=saved
        )
    assert history.start == 3
    equal(again.adapters, whole.adapters)


def test_sam_on_the_factors_and_on_the_merged_kernels():
    (adapters, there), tx, rho = trained(), optax.sgd(0.02), 0.05
    slope = lambda a: jax.grad(lambda a: loss_fn(lora.merge(there, a, SPEC), BATCH, KEY)[0])(a)
    here = slope(adapters)
    up = jax.tree.map(lambda a, g: a + rho * g / optax.tree.norm(here), adapters, here)
    state, _ = run(lora.make_step(loss_fn, SPEC, lora.lora_sam(tx, rho)), adapters, there, lora.lora_sam(tx, rho), 1)
    close(state.adapters, jax.tree.map(lambda a, g: a - 0.02 * g, adapters, slope(up)), 1e-5)

    merged = lora.merge(there, adapters, SPEC)
    outer = geometry.named(jax.grad(lambda p: loss_fn(p, BATCH, KEY)[0])(merged))
    kernels = {name: outer[name] for name in SPEC.layouts}
    far = {name: rho * g / optax.tree.norm(kernels) for name, g in kernels.items()}
    at = lambda a: loss_fn(with_draws(there, a, SPEC, far), BATCH, KEY)[0]
    state, _ = run(lora.make_merged_sam_step(loss_fn, SPEC, tx, rho), adapters, there, tx, 1)
    close(state.adapters, jax.tree.map(lambda a, g: a - 0.02 * g, adapters, jax.grad(at)(adapters)), 1e-5)


def test_sam_on_the_factors_explores_the_row_space_alone_at_the_start():
    adapters, there = lora.init(KEY, base(), SPEC)
    slope = jax.grad(lambda a: loss_fn(lora.merge(there, a, SPEC), BATCH, KEY)[0])(adapters)
    for name, found in lora.explored(adapters, slope, SPEC, 0.05).items():
        assert float(found.through_a) == 0.0
        np.testing.assert_allclose(found.share, 1.0, rtol=1e-5)
        assert name in SPEC.layouts


def test_bad_settings():
    tx = optax.sgd(0.02)
    adapters, there = trained()
    for options, said in (
        ({"accumulate": 0}, "accumulate"),
        ({"every": 0}, "every"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 3, "antithetic": True}, "pairs"),
        ({"weight": 2.0}, "weight"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": lambda step: float("nan")}, "sigma"),
        ({"noise": lora.per_shard("data")}, "mesh"),
        ({"materialize": True, "num_samples": 2}, "materialize"),
    ):
        with pytest.raises(ValueError, match=said):
            lora.make_step(loss_fn, SPEC, tx, **options)
    with pytest.raises(ValueError, match=r"8 rows.*accumulate=3"):
        run(lora.make_step(loss_fn, SPEC, tx, accumulate=3), adapters, there, tx)
    with pytest.raises(ValueError, match="one number"):
        run(lora.make_step(lambda p, b, k: (jnp.ones(2), {}), SPEC, tx), adapters, there, tx)
    with pytest.raises(TypeError, match="typed key"):
        lora.init_state(adapters, tx, jnp.zeros(2, jnp.uint32))
    for rho in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="rho"):
            lora.lora_sam(tx, rho)


def test_norms_that_are_known_give_the_same_step():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    step = lora.make_step(loss_fn, SPEC, tx, 0.3, accumulate=2)
    state = lora.init_state(adapters, tx, KEY)
    expected, _ = step(lora.init_state(adapters, tx, KEY), there, BATCH)
    found, _ = step(state, there, BATCH, lora.sq_norms(there, SPEC))
    close(found.adapters, expected.adapters, 1e-6)
    doubled = jax.tree.map(lambda norms: 4 * norms, lora.sq_norms(there, SPEC))
    other, _ = step(
        lora.init_state(adapters, tx, KEY), there, BATCH, doubled
    )  # they are read, and not worked out again
    assert not np.allclose(other.adapters["dense/kernel"]["b"], expected.adapters["dense/kernel"]["b"])


def primitives(jaxpr):
    """Names of all primitives of a program, but for those in branches of conditions."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        inside = [] if eqn.primitive.name == "cond" else jax.tree.leaves(list(eqn.params.values()))
        for part in inside:
            if hasattr(getattr(part, "jaxpr", part), "eqns"):
                yield from primitives(getattr(part, "jaxpr", part))


def test_a_step_without_noise_draws_nothing():
    (adapters, there), tx = trained(), optax.sgd(0.02)
    state = lora.init_state(adapters, tx, KEY)
    for every, drawn in ((1, True), (3, False)):
        step = lora.make_step(loss_fn, SPEC, tx, 0.3, every=every)
        program = jax.make_jaxpr(step.call)(state, there, BATCH)
        assert ("random_bits" in set(primitives(program.jaxpr))) is drawn
        assert "random_bits" in str(program)
