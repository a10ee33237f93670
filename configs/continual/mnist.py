"""The streams of `fashion_mnist.py` on the 5,000 MNIST digits that come with pip.

Command: clujax run configs/continual/mnist.py --workdir runs/continual_mnist
Time:    about 20 minutes on two CPU cores
Result:  not measured yet
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Five tasks of two digits."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.title = "Learning and forgetting in a stream: MNIST, MLP, memory of 500 rows"
    config.data.name = "mnist"
    config.data.train_rows = None
    return config
