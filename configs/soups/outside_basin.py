"""A pool that left its basin: large learning rates on pictures where the start knows little. A run that must warn.

Command: clujax run configs/soups/outside_basin.py --workdir runs/outside
Time:    a minute on two CPU cores
Result:  the uniform soup is far below its models; the report and a warning say so
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The pool of `fashion_mnist.py` with learning rates up to 0.02 from a start of a third of an epoch."""
    config = runpy.run_path(str(pathlib.Path(__file__).parent / "fashion_mnist.py"))["get_config"]()
    config.title = "A pool outside its basin"
    config.seeds = (0,)
    config.pretrain.epochs = 0.3
    config.pool.learning_rate = (5e-3, 2e-2)
    config.compare = ("best", "uniform", "greedy", "learned", "mehl_plus")
    return config
