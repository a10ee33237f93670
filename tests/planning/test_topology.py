import importlib.util

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clujax.errors import ConfigError
from clujax.planning import topology

offered = st.sampled_from([(kind, dims) for kind, slices in topology.OFFERED.items() for dims in slices])
cubes = st.tuples(st.sampled_from(["v4", "v5p"]), st.tuples(*[st.integers(1, 6).map(lambda n: 4 * n)] * 3))
tpus = st.builds(lambda chip, slices: topology.Topology(*chip, slices), offered | cubes, st.integers(1, 99))
others = st.just(topology.Topology("local")) | st.builds(lambda n: topology.Topology("cpu", (n,)), st.integers(1, 512))


@given(tpus | others)
def test_a_topology_is_read_back_from_its_name(wanted):
    assert topology.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("v5e:4*4", "v5e:4x4"),
        ("v5e:16x15", "v5e:16x16"),
        ("v5e:4x4x4", "v5e:4x4"),
        ("v5p:4x4", "v5p:4x4x"),
        ("V6E:8x8", "v6e:8x8"),
        ("v5e", "v5e:"),
        ("0*v5e:4x4", "v5e:4x4"),
        ("2*cpu:8", "cpu:8"),
        ("cpu", "cpu:8"),
        ("locale", "local"),
        ("cpu:0", "cpu:8"),
        ("", "v5e:4x4"),
    ],
)
def test_an_unknown_topology_names_the_nearest(text, nearest):
    with pytest.raises(ConfigError, match=rf"did you mean '{nearest}"):
        topology.parse(text)


def test_an_unknown_slice_of_a_known_chip_lists_the_slices():
    with pytest.raises(ConfigError, match="Of v5e there are 1x1, 2x2, 2x4"):
        topology.parse("v5e:3x3")
    with pytest.raises(ConfigError, match="whole 4x4x4 cubes"):
        topology.parse("v5p:4x4x5")


def test_the_devices_here_and_a_part_of_them():
    assert topology.devices(topology.parse("local")) == jax.devices()
    assert topology.devices(topology.parse("cpu:4")) == jax.devices()[:4]


def test_more_cpu_devices_than_jax_has_are_refused_with_the_flag():
    with pytest.raises(ConfigError, match="force_host_platform_device_count=64"):
        topology.devices(topology.parse("cpu:64"))


def test_without_the_tpu_compiler_the_message_has_the_install_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else found(name, *a))
    with pytest.raises(ConfigError, match=r'pip install "clujax\[tpu-plan\]" \(or pip install "libtpu==') as error:
        topology.devices(topology.parse("v5e:4x4"))
    assert "no TPU is needed" in str(error.value)


def test_a_mesh_of_a_part_of_the_devices():
    mesh = topology.mesh((("data", -1), ("fsdp", 2)), jax.devices()[:4])
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2}
    assert set(mesh.devices.flat) == set(jax.devices()[:4])


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ((("data", 3),), "needs 3 devices and there are 4"),
        ((("data", 2), ("data", 2)), "twice"),
        ((("data", -1), ("fsdp", 3)), "do not divide"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes, says):
    with pytest.raises(ConfigError, match=says):
        topology.mesh(axes, jax.devices()[:4])


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("v5e:4x4", (False, False)),
        ("v5e:8x16", (False, True)),
        ("v6e:16x16", (True, True)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),
        ("cpu:8", ()),
    ],
)
def test_which_dimensions_of_a_torus_are_closed(text, closed):
    assert topology.wrapped(topology.parse(text)) == closed
