import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from clujax.models import cnn, from_apply, from_linen, frozen, mlp, resnet, vit, with_inputs
from clujax.models.resnet import Block

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(8) % 3
NETWORKS = {
    "mlp": functools.partial(mlp, widths=(4,)),
    "cnn": functools.partial(cnn, widths=(4,), batch_norm=False),
    "cnn_bn": functools.partial(cnn, widths=(4, 4)),
    "vit": functools.partial(vit, image_size=8, width=4, depth=1, num_heads=2),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def made(name, dtype=jnp.float32):
    network = NETWORKS[name](3, dtype=dtype)
    return network, *jax.jit(network.init)(jax.random.key(0), IMAGES)


@functools.cache
def compiled(name, dtype=jnp.float32):
    """`apply` with `train` static, and `features`, each compiled once for all tests."""
    network, *_ = made(name, dtype)
    return jax.jit(network.apply, static_argnames="train"), jax.jit(network.features)


def loss(network, params, stats, **options):
    logits, _ = network.apply(params, stats, IMAGES, **options)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def assert_trees_close(found, wanted, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, wanted)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_resnet_has_the_published_number_of_parameters(depth, count):
    params, stats = jax.eval_shape(resnet(10, depth).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert set(stats) == {"batch_stats"}


# Second row, second column of the second image, and the mean, as PyTorch 2.13 gives them for the same weights.
@pytest.mark.parametrize(
    ("bottleneck", "pixel", "mean"),
    [
        (False, [2.7726498, 1.5087712], 1.5968567),
        (True, [2.2650976, 1.0777915, 0, 0, 0, 0.6791688, 2.230267, 1.5769728], 0.8850680),
    ],
)
def test_residual_blocks_compute_what_pytorch_does(bottleneck, pixel, mean):
    x = np.sin(np.arange(96)).reshape(2, 4, 4, 3).astype(np.float32)
    block = Block(width=2, stride=2, bottleneck=bottleneck, dtype=jnp.float32)
    variables = jax.eval_shape(functools.partial(block.init, train=True), jax.random.key(0), x)
    wave = lambda leaf: np.cos(np.arange(leaf.size)).reshape(leaf.shape).astype(np.float32)
    params, stats = jax.tree.map(wave, variables["params"]), jax.tree.map(wave, variables["batch_stats"])
    run = jax.jit(functools.partial(block.apply, train=True, mutable=["batch_stats"]))
    out, _ = run({"params": params, "batch_stats": stats}, x)
    np.testing.assert_allclose(out[1, 1, 0], pixel, atol=1e-5)
    np.testing.assert_allclose(out.mean(), mean, atol=1e-5)


def test_a_resnet_trains_all_its_stats_and_ends_in_its_head():
    network = resnet(3, width=4)
    params, stats = jax.jit(network.init)(jax.random.key(0), IMAGES)
    _, trained = jax.jit(functools.partial(network.apply, train=True))(params, stats, IMAGES)
    assert jax.tree.structure(trained) == jax.tree.structure(stats)
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (stats, trained)), strict=True))
    (logits, after), features = jax.jit(lambda *a: (network.apply(*a), network.features(*a)))(params, trained, IMAGES)
    assert features.shape == (8, 32)
    assert_trees_close(after, trained, rtol=0)
    np.testing.assert_allclose(
        features @ params["head"]["kernel"] + params["head"]["bias"], logits, rtol=1e-4, atol=1e-5
    )


def test_vit_b16_has_the_published_number_of_parameters_less_its_class_token():
    network = vit(1000, image_size=224, patch=16, width=768, depth=12, num_heads=12)
    params, stats = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 86_567_656 - 2 * 768
    assert stats == {}


@every_network
def test_evaluation_is_deterministic_and_leaves_the_stats(name):
    _, params, stats = made(name)
    apply, _ = compiled(name)
    logits, after = apply(params, stats, IMAGES)
    assert logits.shape == (8, 3)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, apply(params, stats, IMAGES)[0])
    assert_trees_close(after, stats, rtol=0)


@every_network
def test_each_row_is_evaluated_by_itself(name):
    _, params, stats = made(name)
    apply, _ = compiled(name)
    others = np.concatenate([IMAGES[:1], 5 * IMAGES[::-1][:7]])
    together, alone = apply(params, stats, IMAGES)[0], apply(params, stats, others)[0]
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(alone[1:], together[1:])


@every_network
def test_the_head_on_the_features_gives_the_logits(name):
    network, params, stats = made(name)
    head = functools.reduce(lambda tree, part: tree[part], network.head, params)
    apply, features_of = compiled(name)
    features = features_of(params, stats, IMAGES)
    logits, _ = apply(params, stats, IMAGES)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-5)


def test_batchnorm_stats_move_in_training_only_and_do_not_move_the_params():
    _, params, stats = made("cnn_bn")
    _, trained = compiled("cnn_bn")[0](params, stats, IMAGES, train=True)
    for before, after in zip(jax.tree.leaves(stats), jax.tree.leaves(trained), strict=True):
        assert not np.allclose(before, after)
    assert jax.tree.structure(stats) == jax.tree.structure(trained)
    mean = 0.1 * jax.lax.conv(
        IMAGES.transpose(0, 3, 1, 2), params["convs_0"]["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME"
    ).mean((0, 2, 3))
    np.testing.assert_allclose(trained["batch_stats"]["norms_0"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_a_frozen_network_reads_its_stats_in_training_too_and_has_none():
    net, x = cnn(3, widths=(4,)), jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    params, stats = net.init(jax.random.key(0), x)
    _, moved = net.apply(params, stats, 3 + 2 * x, train=True)
    held = frozen(net, moved)
    logits, left = held.apply(params, {}, x, train=True, key=jax.random.key(2))
    assert left == held.init(jax.random.key(0), x)[1] == {}
    np.testing.assert_array_equal(logits, net.apply(params, moved, x)[0])
    assert not np.allclose(logits, net.apply(params, stats, x)[0])
    np.testing.assert_array_equal(held.features(params, {}, x), net.features(params, moved, x))


@every_network
def test_bfloat16_computes_low_and_keeps_params_stats_and_logits_in_float32(name):
    network, params, stats = made(name, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    logits, after = compiled(name, jnp.bfloat16)[0](params, stats, IMAGES, train=True)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} <= {jnp.dtype("float32")}
    assert jax.eval_shape(network.features, params, stats, IMAGES).dtype == jnp.float32
    exact, _ = compiled(name)[0](params, stats, IMAGES, train=True)
    np.testing.assert_allclose(logits, exact, atol=0.1, rtol=0.1)
    assert not np.array_equal(logits, exact), "bfloat16 was asked for and float32 was computed"


@pytest.mark.parametrize("name", ["mlp", "cnn_bn"])
def test_vmap_over_stacked_networks_equals_a_loop(name):
    network, params, stats = made(name)
    stack = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, 1.5 * leaf]), tree)
    apply = functools.partial(network.apply, train=True)
    together = jax.vmap(apply, (0, 0, None))(stack(params), stack(stats), IMAGES)
    for i in range(2):
        pick = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        alone = apply(pick(stack(params)), pick(stack(stats)), IMAGES)
        assert_trees_close(pick(together), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "train"), [("mlp", False), ("cnn_bn", True)])
def test_jvp_of_grad_is_a_symmetric_finite_hessian_product(name, train):
    network, params, stats = made(name)

    @jax.jit
    def product(vector):
        gradient = jax.grad(lambda p: loss(network, p, stats, train=train))
        return jax.jvp(gradient, (params,), (vector,))[1]

    u, v = (
        jax.tree.map(lambda p, s=seed: jnp.asarray(np.random.default_rng(s).normal(size=p.shape), p.dtype), params)
        for seed in (1, 2)
    )
    one, other = optax.tree.vdot(u, product(v)), optax.tree.vdot(v, product(u))
    assert np.isfinite(one)
    assert abs(one) > 1e-6
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_batchnorm_sees_the_whole_batch_when_it_is_sharded_over_devices():
    _, params, stats = made("cnn_bn")
    mesh = jax.make_mesh((8,), ("data",))
    step = functools.partial(compiled("cnn_bn")[0], train=True)
    one = step(params, stats, IMAGES)
    replicated = jax.device_put((params, stats), NamedSharding(mesh, PartitionSpec()))
    spread = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
    many = step(*replicated, spread)
    assert len(spread.sharding.device_set) == 8
    assert_trees_close(many, one, rtol=1e-4, atol=1e-5)


def test_dropout_draws_from_the_key_in_training_and_is_off_in_evaluation():
    network = vit(3, image_size=8, width=4, depth=1, num_heads=2, dropout=0.5)
    _, params, stats = made("vit")
    apply = jax.jit(network.apply, static_argnames="train")
    first, again, other = (apply(params, stats, IMAGES, train=True, key=jax.random.key(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    calm = [network.apply(params, stats, IMAGES, key=jax.random.key(s))[0] for s in (1, 2)]
    np.testing.assert_array_equal(*calm)


def test_features_of_any_linen_module_are_caught_before_its_head():
    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="last")(nn.Dense(3)(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(4)(x.reshape(x.shape[0], -1))))
            return Top(name="top")(x)

    network = from_linen(Net(), head=("top", "last"))
    params, stats = network.init(jax.random.key(0), IMAGES)
    logits, _ = network.apply(params, stats, IMAGES)
    features, last = jax.jit(network.features)(params, stats, IMAGES), params["top"]["last"]
    assert features.shape == (8, 3)
    np.testing.assert_allclose(features @ last["kernel"] + last["bias"], logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"head is \('head',\); expected the path of a layer of Net: \['Dense_0', 'top'\]"
    ):
        from_linen(Net()).features(params, stats, IMAGES)


def test_raw_bytes_are_accepted_as_inputs():
    pixels = np.arange(8 * 8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 8, 3)
    for name in ("mlp", "cnn_bn"):
        _, params, stats = made(name)
        apply, _ = compiled(name)
        found, wanted = apply(params, stats, pixels)[0], apply(params, stats, pixels.astype(np.float32))[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_with_inputs_prepares_for_init_apply_and_features():
    inner, params, stats = made("cnn_bn")
    network = with_inputs(inner, lambda x: (x.astype(jnp.float32) - 2.0) / 3.0)
    raw = IMAGES * 3.0 + 2.0
    assert network.head == inner.head
    assert_trees_close(jax.jit(network.init)(jax.random.key(0), raw), (params, stats), rtol=1e-6)
    apply, features = compiled("cnn_bn")
    found = network.apply(params, stats, raw, train=True, key=None)
    assert_trees_close(found, apply(params, stats, IMAGES, train=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        network.features(params, stats, raw), features(params, stats, IMAGES), rtol=1e-4, atol=1e-5
    )


def test_from_apply_wraps_any_function_and_says_that_it_cannot_initialise():
    network = from_apply(lambda params, x: (x @ params).astype(jnp.bfloat16), features=lambda params, stats, x: x)
    params, x = jnp.ones((2, 3)), jnp.ones((4, 2))
    logits, stats = network.apply(params, {}, x, train=True, key=jax.random.key(0))
    assert logits.dtype == jnp.float32
    assert stats == {}
    np.testing.assert_array_equal(logits, np.full((4, 3), 2.0))
    np.testing.assert_array_equal(network.features(params, {}, x), x)
    with pytest.raises(ValueError, match=r"from_apply.*no init"):
        network.init(jax.random.key(0), x)


def test_from_apply_without_features_says_so_when_they_are_asked():
    network = from_apply(lambda params, x: x @ params)
    with pytest.raises(ValueError, match="no features"):
        network.features(jnp.ones((2, 3)), {}, jnp.ones((4, 2)))


def test_the_equinox_recipe_of_the_package_docstring():
    model = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    network = from_apply(lambda params, x: jax.vmap(eqx.combine(params, static))(x))
    x = jax.random.normal(jax.random.key(1), (6, 4))
    logits, stats = jax.jit(network.apply)(params, {}, x)
    assert stats == {}
    np.testing.assert_allclose(logits, jax.vmap(model)(x), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, {}, x)[0] ** 2))
    curved = jax.jvp(gradient, (params,), (params,))[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(curved))


@pytest.mark.parametrize("make", [cnn, resnet, functools.partial(vit, image_size=8)])
def test_inputs_that_are_no_batch_of_images_are_refused_by_shape(make):
    with pytest.raises(ValueError, match=r"inputs has shape \(8, 8, 3\); expected a batch of images \[B, H, W, C\]"):
        jax.eval_shape(make(10).init, jax.random.key(0), jnp.zeros((8, 8, 3)))


def test_images_too_small_for_the_poolings_are_refused():
    with pytest.raises(ValueError, match=r"4 × 4 .* 3 poolings"):
        jax.eval_shape(cnn(10, (4, 4, 4)).init, jax.random.key(0), jnp.zeros((2, 4, 4, 1)))


def test_a_perceptron_refuses_a_single_vector():
    with pytest.raises(ValueError, match=r"inputs has shape \(8,\); expected a batch"):
        jax.eval_shape(mlp(10).init, jax.random.key(0), jnp.zeros(8))


def test_depths_patches_and_image_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"depth is 20; expected one of \[18, 34, 50, 101, 152\]"):
        resnet(10, depth=20)
    with pytest.raises(ValueError, match=r"patch is 5; expected a divisor of image_size 32"):
        vit(10, patch=5)
    with pytest.raises(ValueError, match=r"num_heads is 3; expected a divisor of width 64"):
        vit(10, num_heads=3)
    with pytest.raises(ValueError, match=r"16 patches; this vit was made for 64"):
        jax.eval_shape(vit(10).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_vit_without_positions_does_not_see_the_order_of_patches():
    _, params, stats = made("vit")
    turned = np.concatenate([IMAGES[:, 4:], IMAGES[:, :4]], 1)
    apply, _ = compiled("vit")
    blind = params | {"positions": jnp.zeros_like(params["positions"])}
    np.testing.assert_allclose(apply(blind, stats, turned)[0], apply(blind, stats, IMAGES)[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(apply(params, stats, turned)[0], apply(params, stats, IMAGES)[0], atol=1e-5)
