import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for the sample files; importlib mode does not add it

from sample import write

from clujax import reports


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of one seed, read."""
    return reports.read(write(tmp_path_factory.mktemp("runs") / "demo"))
