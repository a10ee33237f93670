"""Any mesh shape gives the numbers of one device, the statistics of the whole batch among them; shards are really shards."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.adaptation.importance import row_diagonal
from clujax.adaptation.losses import adaptive_ascent, objective_loss
from clujax.adaptation.request import Request
from clujax.errors import ConfigError
from clujax.models import cnn, microbatched, mlp, vit
from clujax.training import fsdp, init_state, make_mesh, make_train_step, partition, shard, shardings
from clujax.transforms import FORGET, sfron

TENSOR = (
    ("(query|key|value)/kernel", partition("fsdp", "model", None)),
    ("out/kernel", partition("model", None, "fsdp")),
    ("Dense_0/kernel", partition("fsdp", "model")),
    ("Dense_1/kernel", partition("model", "fsdp")),
    (".*", fsdp(min_size=32)),
)
SHARDED = ((".*", fsdp(min_size=32)),)
NETWORKS = {
    "vit": (functools.partial(vit, image_size=8, width=8, depth=1, num_heads=4), TENSOR),
    "cnn": (functools.partial(cnn, widths=(8,)), SHARDED),  # with BatchNorm
}
ROWS = 16
X = (
    np.random.default_rng(0).normal(size=(ROWS, 8, 8, 3)).astype(np.float32)
    * np.arange(1, ROWS + 1)[:, None, None, None]
)
BATCH = {"x": X / 4, "y": np.random.default_rng(1).integers(0, 3, ROWS), "weight": np.float32(2.0)}
# Weights of a whole batch, a norm of the whole gradient, momentum, a mask, slow weights: all that is not a mean over rows.
MESHES = [(8, 1, 1), (1, 4, 1), (2, 2, 2), (1, 2, 4)]


def steps(name, sizes, parts=1):
    make, rules = NETWORKS[name]
    network = make(3)
    params, stats = jax.jit(network.init)(jax.random.key(0), X)
    mask = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 3 > 0, params)
    tx = sfron(optax.trace(0.9), mask=mask, max_norm=0.5, learning_rate=0.1, slow_step=0.5)
    mesh = sizes and make_mesh(tuple(zip(("data", "fsdp", "model"), sizes)), jax.devices()[: np.prod(sizes)])
    rules = rules if mesh else None
    request = Request(microbatched(network, parts), params, stats, {}, {}, 3)
    step = make_train_step(objective_loss(request, adaptive_ascent(0.7)), tx, mesh=mesh, rules=rules)
    state = init_state(params, stats, tx, jax.random.key(1))
    for _ in range(3):
        state, metrics = step(state, BATCH, phase=FORGET)
    return jax.device_get((state.params, state.stats, state.opt_state)), jax.device_get(metrics), state


on_mesh = functools.cache(steps)


@functools.cache
def alone(name):
    return steps(name, None)[:2]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("vit", sizes) for sizes in MESHES] + [("cnn", (2, 1, 1)), ("cnn", (2, 4, 1))],
    ids=str,
)
def test_any_mesh_gives_the_numbers_of_one_device(name, sizes):
    trees, metrics, state = on_mesh(name, sizes)
    chex.assert_trees_all_close(trees, alone(name)[0], rtol=2e-5, atol=2e-5)
    chex.assert_trees_all_close(metrics, alone(name)[1], rtol=2e-5, atol=1e-5)
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == np.prod(sizes)


def test_masks_and_slow_weights_lie_as_their_parameters_do():
    state = on_mesh("vit", (1, 2, 4))[2]
    kernel = state.params["blocks_0"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    like = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    dtypes = [str(leaf.dtype) for leaf in like]
    assert dtypes.count("bool") == 3  # the masks of query, key and value, which have one shape
    assert dtypes.count("float32") == 6  # their momenta and slow copies
    for leaf in (kernel, *like):
        assert {each.data.shape for each in leaf.addressable_shards} == {(4, 1, 2)}


@pytest.mark.parametrize("kind", ["batch", "example"])
def test_the_fisher_diagonal_is_that_of_the_global_batch(kind):
    network = mlp(3, widths=(8,))
    params, stats = network.init(jax.random.key(0), X[:, :4, :4])
    rows = {"x": X[:, :4, :4], "y": BATCH["y"]}  # 16 rows in batches of 12: whole ones and a ragged one
    mesh = make_mesh((("data", 2), ("fsdp", 2)), jax.devices()[:4])
    one, four = (
        row_diagonal(
            Request(network, params, stats, {}, {}, 3, mesh=each, rules=SHARDED),
            rows,
            kind=kind,
            batch_size=12,
            key=jax.random.key(2),
        )
        for each in (None, mesh)
    )
    chex.assert_trees_all_close(jax.device_get(four), jax.device_get(one), rtol=1e-5, atol=1e-7)
    assert len(jax.tree.leaves(four)[1].sharding.device_set) == (4 if kind == "batch" else 1)


def test_the_fisher_pass_lays_rows_and_parameters_over_the_mesh():
    mesh = make_mesh((("data", 2), ("fsdp", 2)), jax.devices()[:4])
    request = Request(None, {"w": jnp.ones((8, 8))}, {}, {}, {}, 3, mesh=mesh, rules=SHARDED)
    rows = {"x": X[:, :4, :4], "y": BATCH["y"]}
    given = []
    row_diagonal(
        request, rows, batch_size=12, key=jax.random.key(2), estimate=lambda *args: given.extend([args[0], *args[1]])
    )
    params, whole, ragged = given
    assert params["w"].sharding.shard_shape((8, 8)) == (4, 8)
    assert {each.data.shape[0] for each in whole["x"].addressable_shards} == {3}  # twelve rows on four devices
    assert {each.data.shape[0] for each in ragged["x"].addressable_shards} == {1}  # four, which divide too


def test_a_batch_in_parts_has_the_numbers_of_the_whole():
    trees, metrics, _ = steps("vit", None, parts=4)
    chex.assert_trees_all_close(trees, alone("vit")[0], rtol=2e-5, atol=2e-5)
    chex.assert_trees_all_close(metrics, alone("vit")[1], rtol=2e-5, atol=1e-5)
    spread, *_ = steps("vit", (2, 2, 1), parts=4)
    chex.assert_trees_all_close(spread, alone("vit")[0], rtol=2e-5, atol=2e-5)


def test_parts_and_recomputation_keep_less_for_the_way_back():
    """Bytes that a forward pass keeps, by the shapes of its residuals; the batch is large beside the parameters."""

    def kept(parts=1, **options):
        network = microbatched(vit(3, image_size=32, width=32, depth=4, num_heads=2, **options), parts)
        x = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
        params, _ = jax.eval_shape(network.init, jax.random.key(0), x)
        forward = lambda params, x: jax.vjp(lambda p: network.apply(p, {}, x, train=True)[0], params)[1]
        residuals = jax.tree.leaves(jax.eval_shape(forward, params, x))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)

    whole, blocks = kept(), 4 * 64 * 64 * 32 * 4
    assert kept(parts=8) < 0.05 * whole  # the inputs, once more
    assert blocks < kept(remat=True) < blocks + 0.05 * whole  # the residual stream of each block


def test_bytes_per_device_fall_as_one_over_the_devices():
    params = {"a": jnp.ones((64, 8)), "b": jnp.ones((8, 128))}
    tx = optax.adam(0.1)
    held = []
    for count in (1, 2, 4, 8):
        mesh = make_mesh((("fsdp", count),), jax.devices()[:count])
        state = shard(init_state(params, {}, tx, jax.random.key(0)), mesh, ((".*", fsdp(min_size=1)),))
        arrays = jax.tree.leaves((state.params, state.opt_state[0].mu, state.opt_state[0].nu))
        held.append({device: 0 for device in mesh.devices.flat})
        for shards in (leaf.addressable_shards for leaf in arrays):
            for each in shards:
                held[-1][each.device] += each.data.nbytes
    total = 3 * 4 * (64 * 8 + 8 * 128)
    assert [set(each.values()) for each in held] == [{total // count} for count in (1, 2, 4, 8)]


def test_computing_in_bfloat16_leaves_float32_masters():
    network = vit(3, image_size=8, width=8, depth=1, num_heads=2, dtype=jnp.bfloat16)
    params, stats = jax.jit(network.init)(jax.random.key(0), X)
    tx = optax.sgd(0.1, momentum=0.9)
    request = Request(network, params, stats, {}, {}, 3)
    step = make_train_step(objective_loss(request, adaptive_ascent()), tx)
    text = str(jax.make_jaxpr(lambda p: network.apply(p, {}, X)[0])(params))
    assert "bf16" in text
    state, metrics = step(init_state(params, stats, tx, jax.random.key(1)), BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32


def test_a_rule_that_fits_no_parameter_lists_the_paths():
    params = {"dense": {"kernel": jnp.ones((8, 8))}}
    state = init_state(params, {}, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ConfigError, match=r"'atention' fits no parameter; the paths are: dense/kernel"):
        shardings(state, make_mesh(), (("atention", fsdp()),))


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (partition("data"), r"has 1 places and 'kernel' has shape \(6, 8\)"),
        (partition("data", None), r"cannot split 'kernel' of shape \(6, 8\) over 'data' \(4 parts\)"),
        (partition("model", None), r"names the mesh axis 'model'; the mesh has \('data', 'fsdp'\)"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(strategy, says):
    mesh = make_mesh((("data", 4), ("fsdp", 2)))
    with pytest.raises(ConfigError, match=says):
        shardings({"kernel": jnp.ones((6, 8))}, mesh, ((".*", strategy),))
