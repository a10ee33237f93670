"""The streams of `fashion_mnist.py` on coloured emoji of nine groups.

Command: clujax run configs/continual/emoji.py --workdir runs/continual_emoji
Time:    about 10 minutes on two CPU cores
Result:  not measured yet
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Nine groups of emoji in five tasks; few rows, so that a memory of 200 holds a good part of them."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.title = "Learning and forgetting in a stream: emoji, MLP, memory of 200 rows"
    config.data.name = "emoji"
    config.data.train_rows = None
    config.data.pool = 2
    config.memory.capacity = 200
    config.tasks = ((0, 1), (2, 3), (4, 5), (6, 7), (8,))
    for name in ("joint_relabel", "ug_clu_relabel"):
        config.methods[name].objective.num_classes = 9
    return config
