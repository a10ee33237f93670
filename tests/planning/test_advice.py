import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.planning import Memory, advise

GIB = 2**30


def large(**changes):
    """A step that needs 24 GiB: 4 of parameters, as much of momentum and gradients, 12 of activations and batch."""
    parts = {"parameters": 4, "optimizer": 4, "batch": 2, "temporaries": 4 + 10, "limit": 16} | changes
    return Memory(**{name: value * GIB for name, value in parts.items()})


def changes(found):
    return {each.change.split(" ")[0]: each for each in found}


def test_a_step_that_fits_needs_no_advice():
    assert large().over == 8 * GIB
    assert advise(large(limit=24), 64, {"data": 8}) == []
    assert large()._replace(limit=None).over == 0


def test_the_largest_batch_that_fits_is_proposed():
    """Of 24 GiB 12 grow with the rows, so a third of them fits; a quarter divides over 8 chips."""
    found = changes(advise(large(), 96, {"data": 8}))
    assert found["batch"].change == "batch size 96 → 32"
    assert found["batch"].total == 16 * GIB
    assert found["batch"].fits


def test_state_is_split_as_far_as_needed():
    found = changes(advise(large(limit=18), 8, {"data": 8, "fsdp": 1}))
    assert found["mesh"].change == "mesh axis fsdp 1 → 2 (data 8 → 4)"
    assert found["mesh"].total == 18 * GIB
    further = changes(advise(large(limit=14), 8, {"data": 8, "fsdp": 1}))
    assert further["mesh"].change == "mesh axis fsdp 1 → 8 (data 8 → 1)"
    assert further["mesh"].total == 13.5 * GIB


def test_where_no_single_change_is_enough_more_chips_are_proposed():
    """Of 24 GiB 12 are state: a quarter of it leaves 15."""
    found = advise(large(limit=15), 1, {"data": 1})
    assert [each.change for each in found if each.fits] == ["a slice of 4 times the chips, mesh axis fsdp 1 → 4"]
    assert changes(found)["a"].total == 15 * GIB


def test_accumulation_keeps_the_batch_and_costs_an_accumulator():
    found = changes(advise(large(limit=20), 64, {"data": 8}))
    assert found["batch"].change == "batch size 64 → 32"
    assert found["accumulate"].change.startswith("accumulate gradients over 2 batches of 32 rows")
    assert found["accumulate"].total == found["batch"].total + 4 * GIB


def test_activations_halve_in_bfloat16_and_state_does_not():
    assert changes(advise(large(), 64, {"data": 8}))["bfloat16"].total == 19 * GIB


def test_a_measured_growth_comes_before_the_estimate():
    """Temporaries that do not grow with the rows are not helped by a smaller batch."""
    found = changes(advise(large(), 64, {"data": 8, "fsdp": 1}, by_rows=0))
    assert set(found) == {"mesh"}
    measured = changes(advise(large(), 64, {"data": 8}, by_rows=8 * GIB))
    assert measured["batch"].change == "batch size 64 → 8"
    assert not measured["batch"].fits


@given(
    st.builds(Memory, *[st.integers(0, 2**36)] * 9, limit=st.integers(1, 2**36)),
    st.integers(1, 64),
    st.sampled_from([{"data": 8}, {"data": 4, "fsdp": 2}, {"data": 1, "fsdp": 8}, {"tensor": 8}]),
)
def test_what_fits_comes_first_and_is_within_the_limit(memory, per_chip, mesh):
    found = advise(memory, per_chip * 8, mesh)
    assert all(each.fits == (each.total <= memory.limit) for each in found)
    assert all(each.total < memory.total for each in found)
    assert [each.fits for each in found] == sorted((each.fits for each in found), reverse=True)
    assert memory.over or not found


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 1, "fsdp": 8}])
def test_nothing_is_proposed_that_the_mesh_cannot_do(mesh):
    found = changes(advise(large(), 8, mesh))
    assert "batch" not in found  # one row a chip
    assert ("mesh" in found) == (mesh.get("fsdp", 1) == 1)
