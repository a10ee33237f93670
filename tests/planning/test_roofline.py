import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.planning import chips, roofline
from clujax.planning.counting import DCN, Collective

sizes, groups = st.floats(1, 1e12), st.integers(2, 4096)


@given(sizes, groups)
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(payload, group):
    parts = roofline.sent("reduce-scatter", payload, group) + roofline.sent("all-gather", payload, group)
    assert roofline.sent("all-reduce", payload, group) == pytest.approx(parts)


@given(sizes, groups)
def test_a_ring_sends_less_than_twice_the_array_however_many_join(payload, group):
    assert payload <= roofline.sent("all-reduce", payload, group) < 2 * payload
    assert roofline.sent("all-reduce", payload, 1) == 0
    assert roofline.sent("all-to-all", payload, group) == pytest.approx(payload * (group - 1) / group)


def test_an_all_to_all_on_a_ring_is_the_sum_of_its_hops():
    """Each of n parts of a chip's array travels min(d, n - d) hops."""
    for n in (2, 4, 16, 64):
        hops = sum(min(d, n - d) for d in range(n))
        assert roofline.sent("all-to-all", n * 1.0, n, 1) == pytest.approx(hops)
    assert roofline.sent("all-to-all", 256.0, 256, 2) == pytest.approx(256 * 2 * 16 / 4)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_step_takes_its_slowest_part_at_least_and_the_sum_at_most(compute, memory, network):
    times = roofline.Times(compute, memory, network)
    assert times.bound == getattr(times, times.binds) == max(times)
    assert times.bound <= times.in_turn <= 3 * times.bound
    assert 0 <= times.utilisation <= 1


def test_times_are_work_over_peaks():
    chip = chips.named("v5e")
    assert roofline.times(197e12, 819e9, 0.5, chip) == (1, 1, 0.5)


@pytest.mark.parametrize(
    ("group", "wrapped", "links", "dimensions"),
    [
        ([(0, 0), (1, 0), (2, 0), (3, 0)], (False, False), 1, 1),
        ([(0, 0), (1, 0), (2, 0), (3, 0)], (True, False), 2, 1),
        ([(0, 0), (0, 1), (0, 2), (0, 3)], (True, False), 1, 1),
        ([(0, 0), (1, 0)], (True, False), 1, 1),  # a part of the ring is a line
        ([(x, y) for x in range(4) for y in range(4)], (False, False), 2, 2),
        ([(x, y) for x in range(4) for y in range(4)], (True, True), 4, 2),
        ([(2, 3)], (True, True), 1, 1),
    ],
)
def test_a_group_has_the_links_of_the_dimensions_that_it_spans(group, wrapped, links, dimensions):
    assert roofline.spanned(np.array(group), np.array([4, 4]), wrapped) == (links, dimensions)


def test_a_switch_gives_all_links_to_every_axis():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    chip = chips.named("H100")
    assert roofline.links(mesh, ("fsdp",), chip, ()) == (chip.link_rate, 0)
    each = Collective("all-gather", ("fsdp",), 4, 4_000_000, 1)
    assert roofline.seconds(each, mesh, chip) == pytest.approx(3_000_000 / 450e9)


def test_what_goes_between_slices_takes_their_network():
    mesh, each = jax.make_mesh((8,), ("data",)), Collective("all-reduce", (DCN,), 2, 10**9, 1)
    assert roofline.seconds(each, mesh, chips.named("v5p")) == pytest.approx(10**9 / 6.25e9)
    assert np.isnan(roofline.seconds(each, mesh, chips.named("v4")))  # no public figure


def test_scaling_falls_from_one_to_a_limit():
    chip, step = chips.named("v5e"), roofline.Times(0.01, 0.004, 0.002)
    per_chip = 3.125e7  # 10 ms of DCN for one passing
    found = roofline.scale(step, per_chip, 16, 512, chip, (1, 2, 4, 8, 16, 1024))
    assert found[0][3:] == (0.0, 0.01, 0.016, 1.0, 1.0)
    assert [each.between for each in found] == pytest.approx(
        [2 * (n - 1) / n * per_chip / 3.125e9 for n in (1, 2, 4, 8, 16, 1024)]
    )
    assert [each.rows for each in found] == [512 * each.slices for each in found]
    efficiency = [each.efficiency for each in found]
    assert efficiency == sorted(efficiency, reverse=True)
    assert efficiency[-1] == pytest.approx(0.5, rel=0.01)
    assert [each.efficiency_in_turn for each in found] == pytest.approx(
        [0.016 / (0.016 + each.between) for each in found]
    )


def test_every_chip_of_the_table_is_whole_and_has_a_source():
    kinds = [kind for chip in chips.CHIPS for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)
    for chip in chips.CHIPS:
        assert chips.of_kind(chip.kinds[0]) is chip
        assert chip.memory > 10 * 2**30
        assert 100 < chip.flops / chip.memory_rate < 1000  # FLOPs a byte: between them, matmuls are worth it
        assert chip.source
