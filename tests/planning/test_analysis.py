import jax
import pytest
from planned_steps import matmul_flops, mlp

from clujax.errors import ConfigError
from clujax.planning import analyse, topology
from clujax.training import fsdp

EVERYTHING = ((".*", fsdp(min_size=1)),)
WIDTHS = (512, 256, 256, 128)
WEIGHTS = 4 * (512 * 256 + 256 * 256 + 256 * 128)


def plan(devices, axes=(("data", -1), ("fsdp", 1)), **settings):
    where = topology.parse(f"cpu:{devices}")
    mesh = topology.mesh(axes, topology.devices(where))
    return analyse(mlp(mesh, WIDTHS, **settings), mesh, where)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_sharded_state_falls_with_the_devices(parts):
    found = plan(parts, (("fsdp", parts),), rules=EVERYTHING).memory
    assert found.parameters == found.optimizer == WEIGHTS / parts
    assert found.batch == 4 * 64 * 512 / parts
    assert found.padding == 0  # CPU pads nothing: the compiler's arguments are those counted by hand


def test_replicated_state_does_not_fall():
    found = plan(8).memory
    assert found.parameters == found.optimizer == WEIGHTS
    assert found.batch == 4 * 64 * 512 / 8


def test_a_plan_on_the_cpu_counts_work_and_says_no_time():
    found = plan(4)
    assert found.flops == matmul_flops(WIDTHS, 64) / 4
    assert found.flops <= found.reported_flops
    assert WEIGHTS / 4 <= found.exchange <= WEIGHTS / 4 + 64  # of each chip, and a few scalars
    assert (found.chip, found.times, found.scaling, found.network) == (None, None, (), ())
    assert found.fits
    assert (found.chips, found.rows, found.calls, found.name) == (4, 64, 10, "train")
    assert found.memory.temporaries > WEIGHTS  # gradients at least


def test_a_step_without_a_mesh_is_planned_too():
    where = topology.parse("cpu:1")
    mesh = topology.mesh((("data", -1),), topology.devices(where))
    found = analyse(mlp(None, WIDTHS), mesh, where)
    assert found.memory.parameters == WEIGHTS
    assert found.collectives == ()


def test_a_batch_that_does_not_divide_is_refused_before_compiling():
    with pytest.raises(ConfigError, match="63 rows, which 8 devices cannot share evenly"):
        plan(8, rows=63)


def test_a_rule_that_names_no_axis_of_the_mesh_is_refused():
    with pytest.raises(ConfigError, match="names the mesh axis 'model'; the mesh has"):
        plan(8, rules=((".*", fsdp("model")),))


def test_compiling_for_a_plan_leaves_the_compilation_cache_on():
    before = jax.config.jax_enable_compilation_cache
    plan(2)
    assert jax.config.jax_enable_compilation_cache == before
