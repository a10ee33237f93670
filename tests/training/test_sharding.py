"""The state really lies in shards, and one device and eight give the same trajectory."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from clujax.errors import ConfigError
from clujax.training import (
    Checkpoints,
    abstract,
    batch_sharding,
    fsdp,
    init_state,
    make_block_step,
    make_mesh,
    make_train_step,
    replicate,
    shard,
    shard_batch,
    shardings,
    tensor,
)

MESH_AXES = (("data", 2), ("fsdp", 4))
RULES = (("head", replicate()), (".*", fsdp(min_size=64)))


class Net(nn.Module):
    """Small, with a BatchNorm whose statistics differ between a device's rows and the whole batch."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(32, name="first")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(4, name="head")(x)


NET = Net()


def loss_fn(params, stats, batch, key):
    logits, new = NET.apply(
        {"params": params, **stats}, batch["x"], True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, (new, {"accuracy": (logits.argmax(-1) == batch["y"]).mean()})


def batch_at(step):
    keys = jax.random.split(jax.random.key(step))
    # Rows grow in scale with their position, so that a device's own mean is far from the mean of all.
    x = jax.random.normal(keys[0], (16, 24)) * jnp.arange(1.0, 17.0)[:, None]
    return {"x": x, "y": jax.random.randint(keys[1], (16,), 0, 4)}


TX = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))


@pytest.fixture(scope="module")
def variables():
    return NET.init(jax.random.key(0), jnp.zeros((1, 24)), False)


def fresh(variables):
    return init_state(variables["params"], {"batch_stats": variables["batch_stats"]}, TX, jax.random.key(1))


def run(variables, steps, **kwargs):
    step, state, losses = make_train_step(loss_fn, TX, **kwargs), fresh(variables), []
    for i in range(steps):
        state, metrics = step(state, batch_at(i))
        losses.append(metrics["loss"])
    return state, jnp.stack([jax.device_get(loss) for loss in losses])


@pytest.fixture(scope="module")
def single(variables):
    return run(variables, 8)


@pytest.fixture(scope="module")
def fully_sharded(variables):
    return run(variables, 8, mesh=make_mesh(MESH_AXES), rules=RULES)


def test_eight_devices_have_the_trajectory_of_one(variables, single, fully_sharded):
    data_parallel = run(variables, 8, mesh=make_mesh())
    for state, losses in (data_parallel, fully_sharded):
        chex.assert_trees_all_close(losses, single[1], rtol=1e-5, atol=1e-5)
        for part in ("params", "stats", "opt_state"):
            chex.assert_trees_all_close(
                jax.device_get(getattr(state, part)), jax.device_get(getattr(single[0], part)), rtol=1e-5, atol=1e-5
            )
    assert len(data_parallel[0].params["head"]["kernel"].sharding.device_set) == 8


def test_parameters_and_optimizer_state_lie_in_shards(fully_sharded):
    state = fully_sharded[0]
    kernel, momentum = state.params["first"]["kernel"], state.opt_state[1][0].trace["first"]["kernel"]
    for array in (kernel, momentum):
        assert array.sharding.spec == P(None, "fsdp")  # [24, 32]: the larger dimension, over 4
        assert {s.data.shape for s in array.addressable_shards} == {(24, 8)}
        assert len({s.device for s in array.addressable_shards}) == 8
        held = sum(s.data.nbytes for s in array.addressable_shards)
        assert held == 2 * array.nbytes  # a whole copy for each of the two `data` groups, not for each device
    for name, leaf in (("head", "kernel"), ("norm", "scale")):  # by the replicate rule; by min_size
        for tree in (state.params, state.opt_state[1][0].trace):
            assert tree[name][leaf].sharding.is_fully_replicated


@pytest.mark.parametrize("mesh_axes", [None, MESH_AXES])
def test_the_hot_step_compiles_once(variables, compilations, mesh_axes):
    mesh = None if mesh_axes is None else make_mesh(mesh_axes)
    step, state = make_train_step(loss_fn, TX, mesh=mesh, rules=None if mesh is None else RULES), fresh(variables)
    batches = [batch_at(i) for i in range(5)]
    state, _ = step(state, batches[0])
    before = compilations()
    assert before >= 1
    for batch in batches[1:]:
        state, _ = step(state, batch)
    assert compilations() == before


def test_batchnorm_sees_the_global_batch(variables, fully_sharded):
    mesh = make_mesh(MESH_AXES)
    step = make_train_step(loss_fn, TX, mesh=mesh, rules=RULES)
    state, _ = step(fresh(variables), batch_at(0))
    first = variables["params"]["first"]
    mean = (batch_at(0)["x"] @ first["kernel"] + first["bias"]).mean(0)
    got = jax.device_get(state.stats["batch_stats"]["norm"]["mean"])
    chex.assert_trees_all_close(got, jax.device_get(0.1 * mean), rtol=1e-5, atol=1e-6)


def test_block_on_a_mesh(variables, single):
    block = make_block_step(loss_fn, TX, mesh=make_mesh(MESH_AXES), rules=RULES)
    batches = jax.tree.map(lambda *x: jnp.stack(x), *[batch_at(i) for i in range(8)])
    state, metrics = block(fresh(variables), batches)
    chex.assert_trees_all_close(jax.device_get(metrics["loss"]), single[1], rtol=1e-5, atol=1e-5)
    assert state.params["first"]["kernel"].sharding.spec == P(None, "fsdp")


def test_sharded_checkpoint_restores_on_one_device_and_back(tmp_path, variables, fully_sharded):
    state = fully_sharded[0]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(8, state)
        _, alone, _ = checkpoints.restore(fresh(variables))
        _, spread, _ = checkpoints.restore(abstract(state))
    for restored in (alone, spread):
        chex.assert_trees_all_equal(
            jax.device_get(restored._replace(key=jax.random.key_data(restored.key))),
            jax.device_get(state._replace(key=jax.random.key_data(state.key))),
        )
    assert {a.sharding.device_set == {jax.devices()[0]} for a in jax.tree.leaves(alone.params)} == {True}
    assert spread.params["first"]["kernel"].sharding == state.params["first"]["kernel"].sharding
    # and both go on to the same numbers
    batch = batch_at(8)
    alone, _ = make_train_step(loss_fn, TX)(alone, batch)
    spread, _ = make_train_step(loss_fn, TX, mesh=make_mesh(MESH_AXES), rules=RULES)(spread, batch)
    chex.assert_trees_all_close(jax.device_get(alone.params), jax.device_get(spread.params), rtol=1e-5, atol=1e-5)


def test_a_state_is_born_in_shards(variables):
    """No device ever holds the whole of it."""
    mesh = make_mesh(MESH_AXES)

    def born(key):
        return init_state(NET.init(key, jnp.zeros((1, 24)), False)["params"], {}, TX, key)

    places = shardings(jax.eval_shape(born, jax.random.key(0)), mesh, RULES)
    state = jax.jit(born, out_shardings=places)(jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == places
    assert {s.data.shape for s in state.opt_state[1][0].trace["first"]["kernel"].addressable_shards} == {(24, 8)}
    chex.assert_trees_all_close(jax.device_get(state.params), jax.device_get(variables["params"]), rtol=1e-6)


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(1e-3),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
        optax.masked(optax.adam(1e-3), {"a": True, "b": False}),
        optax.partition({"x": optax.adam(1e-3), "y": optax.sgd(0.1, 0.9)}, {"a": "x", "b": "y"}),
        optax.ema(0.9),
    ],
)
def test_optimizer_state_follows_its_parameters(tx):
    mesh = make_mesh(MESH_AXES)
    params = {"a": jnp.zeros((64, 8)), "b": jnp.zeros((8, 12))}
    placed = shard(init_state(params, {}, tx, jax.random.key(0)), mesh, ((".*", fsdp(min_size=1)),))
    specs = {(64, 8): P("fsdp"), (8, 12): P(None, "fsdp")}
    big = [leaf for leaf in jax.tree.leaves(placed.opt_state) if leaf.ndim == 2]
    assert big
    assert all(leaf.sharding.spec == specs[leaf.shape] for leaf in big)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed.opt_state) if leaf.ndim == 0)


def test_strategies_and_rules():
    mesh = make_mesh(MESH_AXES)
    tree = {"out": {"kernel": jnp.zeros((6, 8))}, "odd": jnp.zeros((7, 5)), "other": jnp.zeros((8, 8))}
    rules = (("out/kernel$", tensor("data", 0)), ("^o", fsdp(min_size=1)))
    got = jax.tree.map(lambda s: s.spec, shardings(tree, mesh, rules))
    assert got["out"]["kernel"] == P("data")
    assert got["odd"] == P()  # nothing divides by 4
    assert got["other"] == P("fsdp")
    assert shardings({"x": jnp.zeros((1024, 64))}, mesh)["x"].spec == P("fsdp")  # the default rules
    assert batch_sharding(mesh).spec == P(("data", "fsdp"))


def test_what_does_not_fit_is_named():
    mesh = make_mesh(MESH_AXES)
    with pytest.raises(ConfigError, match=r"cannot split 'w' of shape \(6, 3\)"):
        shardings({"w": jnp.zeros((6, 3))}, mesh, (("w", tensor("fsdp", 1)),))
    with pytest.raises(ConfigError, match="names the mesh axis 'model'"):
        shardings({"w": jnp.zeros((6, 3))}, mesh, (("w", fsdp("model")),))
    with pytest.raises(ConfigError, match=r"batch 'x' has 12 rows, which 8 devices"):
        shard_batch({"x": jnp.zeros((12, 3))}, mesh)
