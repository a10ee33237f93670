"""The real TPU compiler, on a machine without a TPU; skipped where libtpu is not installed."""

import itertools
import json

import pytest
from planned_steps import matmul_flops, mlp, stacked

from clujax import cli
from clujax.errors import ConfigError
from clujax.planning import analyse, topology
from clujax.planning.counting import DCN
from clujax.training import fsdp

WIDTHS = (256, 256, 128)
EVERYTHING = ((".*", fsdp(min_size=1)),)


@pytest.mark.parametrize(
    ("text", "kind", "chips"),
    [
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5e:2x2", "TPU v5 lite", 4),
        ("v5e:16x16", "TPU v5 lite", 256),
        ("v5p:4x4x4", "TPU v5", 64),
        ("v4:2x2x2", "TPU v4", 8),
        ("v6e:8x8", "TPU v6 lite", 64),
        ("2*v5e:2x2", "TPU v5 lite", 8),
    ],
)
def test_slices_have_their_chips(tpu, text, kind, chips):
    _, mesh = tpu(text, (("data", -1),))
    assert mesh.size == chips
    assert {device.device_kind for device in mesh.devices.flat} == {kind}


def test_slices_lie_along_the_first_axis(tpu):
    _, mesh = tpu("2*v5e:2x2", (("data", 4), ("fsdp", 2)))
    assert [[device.slice_index for device in row] for row in mesh.devices] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    within = topology.one_slice(mesh)
    assert dict(within.shape) == {"data": 2, "fsdp": 2}
    with pytest.raises(ConfigError, match="runs across the 2 slices"):
        tpu("2*v5e:2x2", (("data", 1), ("fsdp", 8)))


def test_axes_of_a_mesh_follow_the_torus(tpu):
    """Neighbours on an axis are neighbours on the torus."""
    _, mesh = tpu("v5e:4x4", (("data", 4), ("fsdp", 4)))
    for row in (*mesh.devices, *mesh.devices.T):
        for one, other in itertools.pairwise(row):
            assert sum(abs(a - b) for a, b in zip(one.coords, other.coords)) == 1


def test_a_small_step_fits_and_its_work_is_counted_exactly(tpu):
    where, mesh = tpu("v5e:2x2")
    found = analyse(mlp(mesh, WIDTHS, 64, rules=EVERYTHING), mesh, where)
    assert found.fits
    assert 15 * 2**30 < found.memory.limit < 16 * 2**30  # the compiler keeps some of the 16 GiB
    assert found.flops == matmul_flops(WIDTHS, 64) / 4
    assert found.memory.parameters == found.memory.optimizer == 4 * (256 * 256 + 256 * 128) / 2
    assert ("all-gather", ("fsdp",)) in {(each.kind, each.axes) for each in found.collectives}
    assert found.times.bound > 0
    assert found.times.in_turn >= found.times.bound >= found.times.network == sum(found.network)
    assert [each.slices for each in found.scaling] == [1, 2, 4, 8, 16]


def test_a_scan_counts_every_round(tpu):
    where, mesh = tpu("v5e:2x2")
    found = analyse(stacked(mesh, 256, 5, 32), mesh, where)
    assert found.flops == 3 * 5 * 2 * 32 * 256 * 256 / 4
    assert found.notes == ()


def test_padding_of_layouts_is_told(tpu):
    """Ten columns take a tile's worth of room."""
    where, mesh = tpu("v5e:2x2", (("data", 4),))
    found = analyse(mlp(mesh, (1000, 10), 64), mesh, where)
    assert found.memory.padding > 0.2 * found.memory.parameters


def test_a_step_that_is_too_large_is_told_by_how_much_and_what_would_help(tpu):
    where, mesh = tpu("v5e:2x2", (("data", 4), ("fsdp", 1)))
    found = analyse(mlp(mesh, (32768, 32768, 32768), 512), mesh, where)
    assert not found.fits
    assert found.flops is None
    assert found.memory.parameters == found.memory.optimizer == 2 * 32768**2 * 4
    assert found.memory.total >= 16 * 2**30
    assert found.memory.over == found.memory.total - found.memory.limit
    helps = [each.change for each in found.advice if each.fits]
    assert any(change.startswith("mesh axis fsdp 1 → ") for change in helps)


def test_the_command_says_what_does_not_fit(tpu, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(cli._PACKAGE.parent)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--topology", "v5e:1x1", "--model.widths=(49152, 49152)", "--out", str(tmp_path)]
    assert cli.main(["plan", "configs/unlearning/demo.py", *words]) == 1
    told = capsys.readouterr().out
    assert "pretrain does not fit a chip of v5e:1x1, by" in told
    assert "too large by" in told
    steps = json.loads((tmp_path / "plan.json").read_text())["steps"]
    assert [each["name"] for each in steps] == ["pretrain", "sfron/forget", "sfron/remain"]
    assert {(each["fits"], each["times"]) for each in steps} == {(False, None)}
    assert (tmp_path / "plan.png").exists()


def test_what_two_slices_exchange_is_what_one_slice_predicts(tpu):
    """The bytes that the compiler sends over DCN, and the hierarchical all-reduce that the scaling table assumes."""
    axes = (("data", -1), ("fsdp", 2))
    (one, mesh), (two, wide) = tpu("v5e:2x2", axes), tpu("2*v5e:2x2", axes)
    predicted = analyse(mlp(mesh, WIDTHS, 64, rules=EVERYTHING), mesh, one)
    found = analyse(mlp(wide, WIDTHS, 128, rules=EVERYTHING), wide, two)
    sent = [each for each in found.collectives if each.axes == (DCN,)]
    assert {each.group for each in sent} == {2}
    # The gradient's share on each of four chips, and the metrics, for which several slices need a tile each.
    share = 4 * (256 * 256 + 256 * 128) / 4
    assert share <= predicted.exchange <= share + 64
    assert share <= sum(each.payload for each in sent) <= share + 8192
    assert found.flops == predicted.flops
    assert found.chips == 2 * predicted.chips
