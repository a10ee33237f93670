import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from planned_steps import matmul_flops, mlp, stacked

from clujax.planning import counting, hlo
from clujax.training import fsdp, lower, make_mesh, replicate

EVERYTHING = ((".*", fsdp(min_size=1)),)


def module_of(outline):
    return hlo.parse(lower(outline).compile().as_text())


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile()


def test_a_chain_of_matmuls_counts_as_by_hand():
    widths = (512, 256, 256, 128)
    assert counting.flops(module_of(mlp(None, widths, 64))) == matmul_flops(widths, 64)


def test_without_a_loop_the_compiler_agrees():
    """Its count has the elementwise work beside the products: little here."""
    program = compiled(lambda x, w: jnp.sum(jnp.tanh(x @ w) @ w.T), jnp.ones((256, 256)), jnp.ones((256, 512)))
    ours, theirs = counting.flops(hlo.parse(program.as_text())), program.cost_analysis()["flops"]
    assert ours == 2 * 2 * 256 * 256 * 512
    assert ours <= theirs < 1.02 * ours


@pytest.mark.parametrize("depth", [2, 5, 9])
def test_a_scan_counts_every_round(depth):
    # The input of the first layer has no gradient of its own, but a scan computes it.
    flops = counting.flops(module_of(stacked(None, 64, depth, 32)))
    assert flops == 3 * depth * 2 * 32 * 64 * 64


def test_work_divides_over_the_devices():
    widths, whole = (512, 256, 256, 128), matmul_flops((512, 256, 256, 128), 64)
    for devices in (1, 2, 4, 8):
        mesh = make_mesh((("data", -1),), jax.devices()[:devices])
        assert counting.flops(module_of(mlp(mesh, widths, 64))) == whole / devices


@pytest.mark.parametrize(
    ("strides", "padding", "dilation", "groups"),
    [
        ((1, 1), "SAME", (1, 1), 1),
        ((2, 2), "SAME", (1, 1), 1),
        ((2, 1), "VALID", (2, 1), 1),
        ((1, 1), "SAME", (1, 1), 4),
    ],
)
def test_convolutions_and_their_gradients_count_as_xla_counts(strides, padding, dilation, groups):
    x, kernel = jnp.ones((2, 9, 8, 8)), jnp.ones((3, 3, 8 // groups, 16))

    def f(x, kernel):
        out = jax.lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jnp.sum(out)

    program = jax.jit(jax.grad(f, (0, 1))).lower(x, kernel).compile()
    text = program.as_text()
    if " convolution(" not in text:
        pytest.skip("this backend rewrites the convolution")
    elementwise = x.size + 4 * kernel.size + 2 * 9 * 8 * 16
    assert abs(counting.flops(hlo.parse(text)) - program.cost_analysis()["flops"]) <= 2 * elementwise


def test_collectives_of_a_sharded_step_have_their_bytes_and_axes():
    """Weights are gathered over fsdp; their gradients are summed over data, shards only."""
    mesh = make_mesh((("data", 2), ("fsdp", 4)))
    module = module_of(mlp(mesh, (256, 256), 64, rules=EVERYTHING))
    found = counting.collectives(module, mesh)
    weights = 256 * 256 * 4
    gathered = [each for each in found if each.kind == "all-gather" and each.axes == ("fsdp",)]
    assert [(each.group, each.payload) for each in gathered] == [(4, weights)]
    summed = [each for each in found if each.axes == ("data",) and each.kind == "all-reduce"]
    assert [(each.group, each.payload) for each in summed] == [(2, weights // 4)]


def test_a_replicated_step_sums_its_gradient_over_data():
    mesh = make_mesh((("data", 8),))
    widths = (512, 256, 128)
    found = counting.collectives(module_of(mlp(mesh, widths, 64, rules=((".*", replicate()),))), mesh)
    assert {(each.kind, each.axes, each.group) for each in found} == {("all-reduce", ("data",), 8)}
    gradient = 4 * (512 * 256 + 256 * 128)
    assert gradient <= sum(each.payload for each in found) <= gradient + 64  # and a few scalars


@pytest.mark.parametrize("axes", [(("data", 8),), (("data", 2), ("fsdp", 4)), (("data", 1), ("fsdp", 8))])
def test_slices_would_exchange_each_chips_share_of_the_gradient(axes):
    mesh = make_mesh(axes)
    found = counting.collectives(
        module_of(mlp(mesh, (256, 256), 64, rules=None if len(axes) == 1 else EVERYTHING)), mesh
    )
    share = 4 * 256 * 256 / 8
    assert share <= counting.exchange(found, mesh) <= share + 64  # and a few scalars


def test_collectives_in_a_scan_count_every_round():
    mesh = make_mesh((("data", 2), ("fsdp", 4)))
    found = counting.collectives(module_of(stacked(mesh, 256, 5, 32)), mesh)
    gathered = next(each for each in found if each.kind == "all-gather")
    assert gathered.axes == ("fsdp",)
    assert gathered.count % 5 == 0
    assert gathered.payload == gathered.count * 256 * 256 * 4


def test_no_collective_on_one_device():
    mesh = make_mesh((("data", 1),), jax.devices()[:1])
    assert counting.collectives(module_of(mlp(mesh)), mesh) == []


def test_a_product_moves_its_operands_and_its_result():
    text = compiled(lambda x, y: x @ y, jnp.ones((64, 128)), jnp.ones((128, 32))).as_text()
    assert counting.traffic(hlo.parse(text)) == 4 * (64 * 128 + 128 * 32 + 64 * 32)


def test_a_scan_over_rows_reads_each_row_once():
    """The stack is an operand of every round, of which it takes a slice."""
    rows, width = 64, 1024
    text = compiled(lambda x: jax.lax.scan(lambda c, r: (c + r, None), jnp.zeros(width), x)[0], jnp.ones((rows, width)))
    moved = counting.traffic(hlo.parse(text.as_text()))
    stack = 4 * rows * width
    assert stack <= moved <= 8 * stack  # not rows * stack


SPLIT = """HloModule m, num_partitions=4

%all-reduce-scatter.1 (input: f32[8,128]) -> f32[4,128] {
  %input = f32[8,128]{1,0} parameter(0)
  %all-reduce.1 = f32[8,128]{1,0} all-reduce(%input), channel_id=3, replica_groups={{0,1},{2,3}}, to_apply=%add
  %place = s32[] constant(0)
  ROOT %kept = f32[4,128]{1,0} dynamic-slice(%all-reduce.1, %place, %place), dynamic_slice_sizes={4,128}
}

%start (a: bf16[4,128]) -> (bf16[4,128], bf16[8,128]) {
  %a = bf16[4,128]{1,0} parameter(0)
  %all-gather.1 = bf16[8,128]{1,0} all-gather(%a), channel_id=9, replica_groups=[2,2]<=[4], dimensions={0}
  ROOT %call = (bf16[4,128]{1,0}, bf16[8,128]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (b: bf16[4,128]) -> bf16[8,128] {
  %b = bf16[4,128]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,128]{1,0} all-gather(%b), channel_id=9, replica_groups=[2,2]<=[4], dimensions={0}
}

ENTRY %main (x: f32[8,128], y: bf16[4,128]) -> f32[4,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %y = bf16[4,128]{1,0} parameter(1)
  %begun = (bf16[4,128]{1,0}, bf16[8,128]{1,0}) fusion(%y), kind=kCustom, calls=%start
  %carried = bf16[8,128]{1,0} fusion(%y), kind=kOutput, calls=%async_collective_fusion
  %gather-start = (f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%z), channel_id=5, replica_groups=[2,2]<=[2,2]T(1,0)
  %gather-done = f32[4,8]{1,0} all-gather-done(%gather-start)
  %z = f32[2,8]{1,0} constant({...})
  ROOT %scattered = f32[4,128]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_forms_that_the_tpu_compiler_writes_are_counted_once():
    mesh = make_mesh((("data", 2), ("fsdp", 2)), jax.devices()[:4])
    found = counting.collectives(hlo.parse(SPLIT), mesh)
    assert set(found) == {
        ("reduce-scatter", ("fsdp",), 2, 8 * 128 * 4, 1),
        ("all-gather", ("fsdp",), 2, 8 * 128 * 2, 1),
        ("all-gather", ("data",), 2, 4 * 8 * 4, 1),
    }


def test_kernels_that_hide_their_products_are_named():
    call = '%z = f32[2,8]{1,0} custom-call(%x), custom_call_target="__cublas$gemm", backend_config={}'
    hidden = hlo.parse(SPLIT.replace("%z = f32[2,8]{1,0} constant({...})", call))
    assert counting.uncounted(hidden) == ["__cublas$gemm"]
    assert counting.uncounted(hlo.parse(SPLIT)) == []


def test_explicit_collectives_are_told_apart():
    mesh = make_mesh((("data", 2), ("fsdp", 4)))
    spec = PartitionSpec("fsdp")

    def f(x):
        x = jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True)
        x = jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 2), (2, 3), (3, 0)])
        return jax.lax.psum_scatter(x, "data", scatter_dimension=0, tiled=True)

    mapped = jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(("data", "fsdp")), check_vma=False)
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, spec))
    found = counting.collectives(hlo.parse(jax.jit(mapped).lower(x).compile().as_text()), mesh)
    kinds = {(each.kind, each.axes) for each in found}
    assert ("all-to-all", ("fsdp",)) in kinds
    assert ("collective-permute", ("fsdp",)) in kinds
    assert kinds & {("reduce-scatter", ("data",)), ("all-reduce", ("data",))}
