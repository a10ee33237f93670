"""What adapters begin as, how they are merged and read back, and the forward pass that never forms a merged kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax import geometry, lora, models
from clujax.errors import CheckpointError
from clujax.geometry import Layout, lowrank

KEY = jax.random.key(0)
STACK = Layout((1,), batch=(0,))


def tree(dtype=jnp.float32):
    shapes = {
        "dense": {"kernel": (12, 10), "bias": (10,)},
        "query": {"kernel": (10, 2, 5)},
        "stack": {"kernel": (2, 9, 8)},
        "conv": {"kernel": (3, 3, 4, 9)},
    }
    make = lambda shape: jax.random.normal(jax.random.key(sum(shape)), shape).astype(dtype)
    return jax.tree.map(make, shapes, is_leaf=lambda x: isinstance(x, tuple))


def rules(**options):
    return [
        lora.LoraRule("dense/kernel|query/kernel|conv/kernel", 2, **options),
        lora.LoraRule("stack/", 2, layout=STACK, **options),
    ]


def moved(adapters):
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), adapters)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


@pytest.mark.parametrize(
    "init", [lora.kaiming, lora.gaussian, lora.he, lora.pissa(), lora.olora, lora.lora_ga()], ids=lambda i: i.name
)
def test_the_merged_network_begins_as_the_base(init):
    base = tree()
    spec = lora.build_spec(base, rules(init=init))
    adapters, there = lora.init(KEY, base, spec, gradients=jax.tree.map(jnp.sin, base))
    close(lora.merge(there, adapters, spec), base)
    shifted = not np.array_equal(there["dense"]["kernel"], base["dense"]["kernel"])
    assert shifted == init.shifts_base
    if init.shifts_base:
        assert np.linalg.matrix_rank(base["dense"]["kernel"] - there["dense"]["kernel"], tol=1e-4) == 2


def test_adapters_begin_within_a_compiled_function():
    """Over keys, with a base that the function holds: it is looked at all the same."""
    base = tree()
    spec = lora.build_spec(base, rules())
    each = jax.jit(jax.vmap(lambda key: lora.init(key, base, spec)[0]))(jax.random.split(KEY, 3))
    one = lora.init(jax.random.split(KEY, 3)[1], base, spec)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), each, one)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, base)
    with pytest.raises(ValueError, match="NaN"):
        jax.jit(lambda key: lora.init(key, broken, spec)[0])(KEY)


def test_ranges_of_drawn_factors():
    base = {"kernel": jnp.ones((400, 50))}
    for init, bound in ((lora.kaiming, 1 / 20), (lora.he, np.sqrt(6) / 20)):
        a = lora.init(KEY, base, lora.build_spec(base, [lora.LoraRule("kernel", 8, init=init)]))[0]["kernel"]["a"]
        assert bound * 0.98 < a.max() <= bound
        assert -bound <= a.min() < -bound * 0.98
    a = lora.init(KEY, base, lora.build_spec(base, [lora.LoraRule("kernel", 8, init=lora.gaussian)]))[0]["kernel"]["a"]
    np.testing.assert_allclose(np.std(a), 1 / 8, rtol=0.1)


def test_pissa_takes_the_largest_singular_directions():
    base = tree()
    spec = lora.build_spec(base, [lora.LoraRule("dense/kernel", 2, init=lora.pissa())])
    adapters, _ = lora.init(KEY, base, spec)
    u, s, v = np.linalg.svd(base["dense"]["kernel"], full_matrices=False)
    found = lora.delta(adapters, spec)["dense/kernel"]
    np.testing.assert_allclose(found, u[:, :2] * s[:2] @ v[:2], atol=2e-5)


def test_scalings():
    assert lora.standard(16.0, 8) == 2.0
    np.testing.assert_allclose(lora.rank_stabilized(16.0, 4), 8.0)


def test_unmerge_takes_the_adapters_out():
    base = tree()
    spec = lora.build_spec(base, rules())
    adapters = moved(lora.init(KEY, base, spec)[0])
    close(lora.unmerge(lora.merge(base, adapters, spec), adapters, spec), base)
    low = tree(jnp.bfloat16)
    wide = lora.merge(jax.tree.map(lambda x: x.astype(jnp.float32), low), adapters, spec)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y.astype(jnp.bfloat16)), lora.merge(low, adapters, spec), wide
    )
    for error in lora.merge_error(low, adapters, spec).values():
        assert 0 < float(error[0]) < 2**-7


def test_dora_holds_its_norm_constant_in_the_gradient():
    base = {"kernel": tree()["dense"]["kernel"]}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 2, magnitude=True, alpha=2.0)])
    adapters, there = lora.init(KEY, base, spec)
    close(lora.merge(there, adapters, spec), base)
    adapters = moved(adapters)
    x = jax.random.normal(KEY, (5, 12))
    found = jax.grad(lambda a: jnp.sum(jnp.sin(x @ lora.merge(there, a, spec)["kernel"])))(adapters)["kernel"]
    at = adapters["kernel"]
    v = base["kernel"] + at["a"] @ at["b"]
    size = jnp.linalg.norm(v, axis=0)
    held = lambda a, b, m: jnp.sum(jnp.sin(x @ (m * (base["kernel"] + a @ b) / size)))
    close((found["a"], found["b"], found["magnitude"]),
          jax.grad(held, argnums=(0, 1, 2))(at["a"], at["b"], at["magnitude"]), 1e-4)  # fmt: skip


def test_lora_plus_is_a_larger_rate_for_b():
    base = tree()
    spec = lora.build_spec(base, rules())
    adapters = lora.init(KEY, base, spec)[0]
    tx = lora.lora_plus(optax.sgd, 0.1, ratio=16.0)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, adapters), tx.init(adapters), adapters)
    falling = lora.lora_plus(optax.sgd, lambda step: 0.1 / (step + 1), ratio=4.0)
    slower, _ = falling.update(jax.tree.map(jnp.ones_like, adapters), falling.init(adapters), adapters)
    for parts, others in zip(updates.values(), slower.values()):
        np.testing.assert_allclose(parts["a"], -0.1, rtol=1e-6)
        np.testing.assert_allclose(parts["b"], -1.6, rtol=1e-6)
        np.testing.assert_allclose(others["b"], -0.4, rtol=1e-6)


@pytest.mark.parametrize("magnitude", [False, True])
def test_factored_forward_is_the_merged_one(magnitude):
    net = models.vit(3, image_size=8, patch=4, width=8, depth=1, num_heads=2)
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    base, _ = net.init(KEY, x)
    spec = lora.build_spec(base, [lora.LoraRule("kernel$", 1, magnitude=magnitude)])
    adapters = moved(lora.init(KEY, base, spec)[0])
    apply = lambda params, x: net.apply(params, {}, x)[0]
    loss = lambda f: jax.jit(jax.value_and_grad(lambda a: jnp.sum(jnp.sin(f(base, a, x)))))
    near, far = (loss(make(apply, spec))(adapters) for make in (lora.factored, lora.lorafy))
    np.testing.assert_allclose(near[0], far[0], rtol=1e-5)
    close(near[1], far[1], 2e-4)


def test_a_kernel_that_meets_no_input_is_told():
    base = {"kernel": jnp.ones((4, 4))}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 1)])
    adapters = lora.init(KEY, base, spec)[0]
    with pytest.raises(ValueError, match="kernel"):
        lora.factored(lambda p, x: x + jnp.sin(p["kernel"]), spec)(base, adapters, jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="kernel"):
        lora.factored(lambda p, x: x, spec)(base, adapters, jnp.ones((4, 4)))


@pytest.mark.parametrize("magnitude", [False, True])
def test_peft_files_come_back_to_the_bit(tmp_path, magnitude):
    pytest.importorskip("safetensors")
    base = tree()
    spec = lora.build_spec(base, rules(magnitude=magnitude))
    adapters = moved(lora.init(KEY, base, spec)[0])
    lora.write_peft(tmp_path, adapters, spec)
    back, read = lora.read_peft(tmp_path, base, layouts={"stack/kernel": STACK})
    jax.tree.map(np.testing.assert_array_equal, back, adapters)
    assert [(e.name, e.scale, e.layout) for e in read] == [(e.name, e.scale, e.layout) for e in spec]


def test_peft_layout_of_a_dense_kernel(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    base = {"dense": tree()["dense"]}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 2)])
    adapters = moved(lora.init(KEY, base, spec)[0])
    lora.write_peft(tmp_path, adapters, spec)
    held = files.load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.dense"
    np.testing.assert_array_equal(held[f"{prefix}.lora_A.weight"], adapters["dense/kernel"]["a"].T)
    np.testing.assert_array_equal(held[f"{prefix}.lora_B.weight"], adapters["dense/kernel"]["b"].T)


def test_checkpoints_hold_adapters_alone_and_know_their_base(tmp_path):
    base = tree()
    spec = lora.build_spec(base, rules())
    adapters = moved(lora.init(KEY, base, spec)[0])
    lora.save_adapters(tmp_path / "kept", adapters, spec, base, step=3)
    step, back, read, _ = lora.restore_adapters(tmp_path / "kept", base, spec)
    assert step == 3
    assert [e.name for e in read] == [e.name for e in spec]
    jax.tree.map(np.testing.assert_array_equal, back, adapters)
    other = jax.tree.map(lambda x: x + 1, base)
    with pytest.raises(CheckpointError):
        lora.restore_adapters(tmp_path / "kept", other, spec)


def test_rules_are_refused_in_plain_words():
    base = tree() | {"count": {"kernel": jnp.ones((3, 3), jnp.int32)}, "odd": {"kernel": jnp.ones((2, 3, 4))}}
    for bad, said in (
        ([], "no rules"),
        ([lora.LoraRule("nothing")], "takes no leaf"),
        ([lora.LoraRule("dense/bias")], "inputs and outputs"),
        ([lora.LoraRule("dense/kernel", 2), lora.LoraRule("dense", 2)], "both take"),
        ([lora.LoraRule("odd/kernel", 1)], "several ways"),
        ([lora.LoraRule("count/kernel", 1)], "int32"),
        ([lora.LoraRule("dense/kernel", 0)], "rank is 0"),
        ([lora.LoraRule("dense/kernel", 11)], "rank is 11"),
        ([lora.LoraRule("dense/kernel", 6, init=lora.lora_ga())], "rank is 6"),
        ([lora.LoraRule("dense/kernel", 2, layout=Layout((0, 1)))], "does not split"),
    ):
        with pytest.raises(ValueError, match=said):
            lora.build_spec(base, bad)
    spec = lora.build_spec(base, [lora.LoraRule("dense/kernel", 2)])
    with pytest.raises(ValueError, match="dense/kernel is missing"):
        lora.merge(base, {}, spec)
    adapters = {"dense/kernel": {"a": jnp.ones((12, 3)), "b": jnp.ones((2, 10))}}
    with pytest.raises(ValueError, match=r"dense/kernel/a has shape \(12, 3\)"):
        lora.merge(base, adapters, spec)
    with pytest.raises(ValueError, match="NaN"):
        lora.init(KEY, jax.tree.map(lambda x: x * float("nan"), {"dense": base["dense"]}), spec)
    ga = lora.build_spec(base, [lora.LoraRule("dense/kernel", 2, init=lora.lora_ga())])
    with pytest.raises(ValueError, match="gradients"):
        lora.init(KEY, base, ga)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((6, 5), Layout((0,))), ((6, 5), Layout((1,))), ((2, 3, 4), Layout((0, 1))), ((3, 4, 5), STACK),
     ((2, 2, 3, 4), Layout((0, 1, 2)))],
)  # fmt: skip
def test_products_of_factors_against_dense_matrices(shape, layout):
    kernel = jax.random.normal(KEY, shape)
    pairs = []
    for i in (1, 2):
        keys = jax.random.split(jax.random.key(i))
        pairs.append([jax.random.normal(k, s) for k, s in zip(keys, lowrank.factor_shapes(shape, 2, layout))])
    first, second = (lowrank.delta(a, b, 0.5, layout) for a, b in pairs)
    inside = jnp.matmul(*[p.reshape(*p.shape[: len(layout.batch)], -1, 2) if i == 0 else
                          p.reshape(*p.shape[: len(layout.batch)], 2, -1) for i, p in enumerate(pairs[0])])  # fmt: skip
    np.testing.assert_allclose(lowrank.to_matrix(first, layout), 0.5 * inside, atol=1e-5)
    np.testing.assert_allclose(lowrank.inner(kernel, *pairs[0], 0.5, layout), jnp.vdot(kernel, first), rtol=1e-4)
    np.testing.assert_allclose(
        lowrank.gram(tuple(pairs[0]), tuple(pairs[1]), (0.5, 0.5), layout), jnp.vdot(first, second), rtol=1e-4
    )
    np.testing.assert_allclose(
        lowrank.merged_filter_sq_norms(kernel, *pairs[0], 0.5, layout),
        lowrank.filter_sq_norms(kernel + first, layout),
        rtol=1e-4,
    )
    np.testing.assert_array_equal(lowrank.from_matrix(lowrank.to_matrix(kernel, layout), shape, layout), kernel)
    assert geometry.filter_std(kernel, layout).ndim == len(shape)


def test_factored_forward_of_convolutions_and_of_a_scanned_stack():
    base = tree()
    spec = lora.build_spec(base, [lora.LoraRule("conv/kernel", 2), lora.LoraRule("stack/", 2, layout=STACK)])
    adapters = moved(lora.init(KEY, base, spec)[0])
    pictures, rows = jax.random.normal(KEY, (2, 5, 5, 4)), jax.random.normal(KEY, (3, 9))

    def apply(params, pictures, rows):
        seen = jax.lax.conv_general_dilated(
            pictures, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        layer = lambda h, kernel: (jnp.pad(jnp.tanh(h @ kernel), ((0, 0), (0, 1))), None)
        return jnp.sum(jnp.sin(seen)) + jnp.sum(jax.lax.scan(layer, rows, params["stack"]["kernel"])[0])

    loss = lambda make: jax.jit(jax.value_and_grad(lambda a: make(apply, spec)(base, a, pictures, rows)))(adapters)
    near, far = loss(lora.factored), loss(lora.lorafy)
    np.testing.assert_allclose(near[0], far[0], rtol=1e-5)
    close(near[1], far[1], 1e-3)


def test_factored_forward_forms_nothing_of_the_kernels_size():
    base = {"kernel": jnp.ones((40, 50))}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 2)])
    adapters = lora.init(KEY, base, spec)[0]
    x = jnp.ones((7, 40))
    made = lambda make: {
        tuple(out.aval.shape)
        for eqn in jax.make_jaxpr(jax.grad(
            lambda a: jnp.sum(jnp.sin(make(lambda p, x: x @ p["kernel"], spec)(base, a, x)))
        ))(adapters).jaxpr.eqns
        for out in eqn.outvars
    }  # fmt: skip
    assert (40, 50) in made(lora.lorafy)
    assert not {(40, 50), (50, 40)} & made(lora.factored)


def test_dropout_acts_on_the_adapters_input_alone():
    base = {"kernel": jnp.zeros((200, 3))}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 1, alpha=1.0, dropout=0.5)])
    adapters = {"kernel": {"a": jnp.ones((200, 1)), "b": jnp.ones((1, 3))}}
    f, x = lora.factored(lambda p, x: x @ p["kernel"], spec), jnp.ones((400, 200))
    np.testing.assert_allclose(f(base, adapters, x), 200.0, rtol=1e-6)
    noisy = f(base, adapters, x, dropout_key=KEY)
    np.testing.assert_allclose(jnp.mean(noisy), 200.0, rtol=0.02)
    np.testing.assert_allclose(jnp.std(noisy[:, 0]), np.sqrt(200), rtol=0.15)
    one = lora.build_spec(base, [lora.LoraRule("kernel", 1, alpha=1.0)])
    np.testing.assert_allclose(
        lora.factored(lambda p, x: x @ p["kernel"], one)(base, adapters, x, dropout_key=KEY), 200.0
    )


def test_rounding_at_random_keeps_small_steps_on_average():
    base = {"kernel": jnp.ones((30, 30), jnp.bfloat16)}
    spec = lora.build_spec(base, [lora.LoraRule("kernel", 1, alpha=1.0)])
    adapters = {"kernel": {"a": jnp.full((30, 1), 1e-3), "b": jnp.ones((1, 30))}}
    np.testing.assert_array_equal(lora.merge(base, adapters, spec)["kernel"], 1.0)  # a cast loses the step
    keys = jax.random.split(KEY, 50)
    found = [lora.merge_stochastically(key, base, adapters, spec)["kernel"].astype(jnp.float32).mean() for key in keys]
    np.testing.assert_allclose(np.mean(found), 1.001, atol=1e-4)
    assert len(set(map(float, found))) > 25  # another key, other roundings
