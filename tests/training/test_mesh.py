import jax
import pytest

from clujax.errors import ConfigError
from clujax.training import make_mesh


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((("data", -1), ("fsdp", 1)), {"data": 8, "fsdp": 1}),
        ((("data", 2), ("fsdp", -1)), {"data": 2, "fsdp": 4}),
        ((("data", 2), ("fsdp", 2), ("tensor", 2)), {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
)
def test_sizes_fill_up(axes, shape):
    assert dict(make_mesh(axes).shape) == shape


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ((("data", 3), ("fsdp", -1)), "8 devices do not divide by the given sizes"),
        ((("data", 4), ("fsdp", 1)), "needs 4 devices and there are 8"),
        ((("data", -1), ("fsdp", -1)), "at most one -1"),
        ((("data", 0),), "positive"),
        ((("data", 2), ("data", 4)), "names the axis 'data' twice"),
        ((), "at least one"),
    ],
)
def test_sizes_that_do_not_fit_are_named(axes, says):
    with pytest.raises(ConfigError, match=says):
        make_mesh(axes)


def test_a_part_of_the_devices():
    assert make_mesh((("data", -1),), jax.devices()[:2]).devices.tolist() == jax.devices()[:2]


def test_sizes_that_no_axis_of_the_machine_has_are_cut_out_of_one():
    """Virtual devices have no topology; any division of them is a mesh."""
    for sizes in ((2, 2, 2), (1, 8), (8, 1), (4, 2)):
        mesh = make_mesh(tuple(zip("abc", sizes)))
        assert mesh.devices.shape == sizes
        assert set(mesh.devices.flat) == set(jax.devices())
