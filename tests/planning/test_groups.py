import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.planning import groups


def sets(*rows):
    return frozenset(frozenset(row) for row in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}", sets((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4]", sets((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", sets((0, 2), (1, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", sets((0, 1), (2, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_2'}", sets((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4,'b'=1] {'a','b'}", sets((0, 1, 2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,3,1,2) {'b'}", sets((0, 3), (1, 2))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", sets((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", sets((0, 1), (2, 3))),
        ("replica_groups={}", sets((0, 1, 2, 3))),
        ("replica_groups={{0},{1},{2},{3}}", sets()),
        ("source_target_pairs={{0,1},{1,0}}", sets((0, 1))),
    ],
)  # fmt: skip
def test_the_forms_of_groups(text, expected):
    assert groups.parse(f", channel_id=1, {text}, use_global_device_ids=true, to_apply=%add", 4) == expected


@given(st.permutations(range(3)), st.integers(0, 2))
def test_an_iota_list_says_what_numpy_says(order, kept):
    dims = (2, 3, 4)
    values = np.arange(24).reshape(dims).transpose(order).reshape(-1, (2, 3, 4)[kept])
    text = f"replica_groups=[{values.shape[0]},{values.shape[1]}]<=[2,3,4]T({','.join(map(str, order))})"
    assert groups.parse(text, 24) == sets(*values.tolist())


def test_every_set_of_axes_is_recognised_by_its_groups():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    for count in (1, 2, 3):
        for names in itertools.combinations(mesh.axis_names, count):
            along = groups.along_axes(mesh, names)
            assert groups.axes(along, mesh) == names
            assert {len(group) for group in along} == {math.prod(mesh.shape[name] for name in names)}


def test_groups_of_a_part_of_an_axis_name_the_axis():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    assert groups.axes(sets((0, 1), (2, 3)), mesh) == ("fsdp",)
    assert groups.axes(sets((0, 5)), mesh) == ("data", "fsdp")
