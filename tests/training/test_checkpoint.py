"""A checkpoint is whole or not used; damage, kills and full disks are named."""

import os

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from clujax.errors import CheckpointError
from clujax.training import Checkpoints, abstract, init_state


def make_state(seed, width=600):  # so many numbers that the largest file holds them and no metadata
    params = {"w": jax.random.normal(jax.random.key(seed), (4, width)), "half": jnp.ones(3, jnp.bfloat16) * seed}
    state = init_state(params, {"norm": {"mean": jnp.arange(3.0)}}, optax.adam(0.1), jax.random.key(seed, impl="rbg"))
    return state._replace(step=jnp.int32(seed))


def assert_same(a, b):
    assert jax.random.key_impl(a.key) == jax.random.key_impl(b.key)
    plain = [s._replace(key=jax.random.key_data(s.key)) for s in (a, b)]
    chex.assert_trees_all_equal(*plain)
    chex.assert_trees_all_equal_dtypes(*plain)


@pytest.fixture
def three(tmp_path):
    """A directory with checkpoints 1, 2 and 3, closed."""
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"seconds": step / 2})
    return tmp_path / "checkpoints"


def test_newest_comes_back_and_only_keep_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(make_state(0)) is None
        for step in (1, 2, 5):
            checkpoints.save(step, make_state(step), {"seconds": step / 2})
        step, state, extra = checkpoints.restore(abstract(make_state(0)))
        assert (step, extra) == (5, {"seconds": 2.5})
        assert_same(state, make_state(5))
        assert checkpoints.steps() == [2, 5]


def test_saving_does_not_wait_for_the_state_to_be_kept(tmp_path):
    """The state may be donated as soon as `save` returns, while the thread still writes."""
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    tree = {"w": jnp.arange(500_000.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, tree)
        overwritten = jax.block_until_ready(overwrite(tree))
        _, back, _ = checkpoints.restore(overwritten)
    chex.assert_trees_all_equal(back, {"w": jnp.arange(500_000.0)})


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    file = largest(folder)
    os.truncate(file, file.stat().st_size // 2)


def flip(folder):
    file = largest(folder / "state")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def lose(folder):
    largest(folder / "state").unlink()


def lose_sums(folder):
    (folder / "sums.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, lose, lose_sums])
def test_damaged_newest_is_passed_over_and_both_are_named(three, damage):
    damage(three / "3")
    with Checkpoints(three, keep=3) as checkpoints:
        with pytest.warns(UserWarning, match=r"passed over 3 \(.*using step 2, the last whole one"):
            step, state, _ = checkpoints.restore(make_state(0))
        assert step == 2
        assert_same(state, make_state(2))
        checkpoints.save(3, make_state(3))  # the run repeats the step; the damaged folder is not in its way
        assert checkpoints.restore(make_state(0))[0] == 3
    assert (three / "damaged-3").is_dir()


def test_nothing_whole_is_an_error_and_not_a_silent_new_start(three):
    for step in (1, 2, 3):
        flip(three / str(step))
    with (
        Checkpoints(three, keep=3) as checkpoints,
        pytest.raises(CheckpointError, match=r"no whole checkpoint in .*: 3 \(.*2 \(.*1 \(.*Move the directory"),
    ):
        checkpoints.restore(make_state(0))


def test_another_runs_checkpoint_is_refused_by_the_first_leaf_that_differs(three):
    with Checkpoints(three, keep=3) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"'opt_state\.0\.mu\.w' is float32\[4, 600\] there and float32\[4, 7\]"
        ):
            checkpoints.restore(make_state(0, width=7))
        with pytest.raises(CheckpointError, match=r"'key' is uint32\[4\] there and absent"):
            checkpoints.restore({"params": make_state(0).params})
        assert checkpoints.steps() == [1, 2, 3]


def test_full_disk(small_disk):
    disk, says = small_disk
    small = {"w": jnp.arange(1000.0)}
    large = {"w": jax.random.normal(jax.random.key(0), (400_000,))}  # 1.6 MB that zstd cannot make small
    with Checkpoints(disk, keep=3) as checkpoints:
        checkpoints.save(1, small)
        checkpoints.save(2, large)
        with pytest.raises(CheckpointError, match=rf"checkpoint 2 .*{says}.*checkpoint 1 is whole"):
            checkpoints.wait()
        assert [p.name for p in disk.iterdir()] == ["1"]
        step, state, _ = checkpoints.restore(small)
        assert step == 1
        chex.assert_trees_all_equal(state, small)
        checkpoints.save(2, small)  # once there is space, the same object writes again
        assert checkpoints.restore(small)[0] == 2
