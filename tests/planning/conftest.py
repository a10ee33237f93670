import importlib.util
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for planned_steps; importlib mode does not add it


@pytest.fixture(scope="session")
def tpu():
    """`tpu(text, axes) -> (topology, mesh)` with the TPU compiler, which needs no TPU."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip('the TPU compiler is not here: pip install "clujax[tpu-plan]"')
    from clujax.planning import topology

    def described(text, axes=(("data", -1), ("fsdp", 2))):
        wanted = topology.parse(text)
        topology.prepare([wanted])
        return wanted, topology.mesh(axes, topology.devices(wanted))

    return described
