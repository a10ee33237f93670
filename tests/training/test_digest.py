"""One digest for what agrees to the bit, another for everything else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clujax.errors import CheckpointError
from clujax.training import Checkpoints, tree_digest
from clujax.training.checkpoint import committed, read_arrays


def tree():
    return {
        "layer": {"w": jax.random.normal(jax.random.key(0), (8, 3)), "half": jnp.arange(3, dtype=jnp.bfloat16)},
        "count": jnp.int32(4),
        "key": jax.random.key(5),
    }


def test_containers_devices_and_strides_do_not_count():
    plain = tree()
    mesh = jax.make_mesh((8,), ("data",))
    sharded = plain | {"layer": dict(plain["layer"])}
    sharded["layer"]["w"] = jax.device_put(plain["layer"]["w"], NamedSharding(mesh, PartitionSpec("data")))
    assert len(sharded["layer"]["w"].addressable_shards) == 8
    turned = {"count": np.int32(4), "key": jax.random.key_data(plain["key"])}
    turned |= {f"layer.{name}": np.asfortranarray(leaf) for name, leaf in plain["layer"].items()}
    assert tree_digest(sharded) == tree_digest(plain) == tree_digest(turned)
    big_endian = np.arange(3, dtype=">f4")
    assert tree_digest([big_endian]) == tree_digest([jnp.arange(3.0)])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"count": jnp.int32(5)},
        lambda t: t | {"count": jnp.uint32(4)},
        lambda t: t | {"count": jnp.int32(4)[None]},
        lambda t: t | {"number": t["count"]},
        lambda t: {("counts" if name == "count" else name): leaf for name, leaf in t.items()},
        lambda t: t | {"key": jax.random.key(6)},
        lambda t: t | {"layer": t["layer"] | {"w": t["layer"]["w"].T.reshape(8, 3)}},
        lambda t: t | {"layer": t["layer"] | {"w": t["layer"]["w"].at[7, 2].multiply(1 + 2**-23)}},
        lambda t: t | {"layer": {"w": t["layer"]["w"]}},
    ],
)
def test_any_change_counts(change):
    assert tree_digest(change(tree())) != tree_digest(tree())


def test_a_sign_of_zero_is_a_bit():
    assert tree_digest(jnp.zeros(2)) != tree_digest(-jnp.zeros(2))


def test_a_checkpoint_read_without_its_state_has_the_digest_of_what_was_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 12):
            checkpoints.save(step, tree(), {"note": step})
        checkpoints.wait()
        before = sorted(tmp_path.rglob("*"))
        assert committed(tmp_path) == [3, 12]
        arrays, extra = read_arrays(tmp_path, 12)  # while its owner has it open
        assert sorted(tmp_path.rglob("*")) == before
    assert (tree_digest(arrays), extra) == (tree_digest(tree()), {"note": 12})
    (tmp_path / "3" / "sums.json").unlink()
    for step in (3, 4):
        with pytest.raises(CheckpointError, match=f"checkpoint {step} in .* cannot be read"):
            read_arrays(tmp_path, step)
