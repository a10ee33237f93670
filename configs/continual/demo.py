"""Learn digits in a stream, forget some on request, and show it; five requests, six methods.

Command: clujax run configs/continual/demo.py --workdir runs/continual_demo
Time:    about a minute on two CPU cores
Result:  UG-CLU Avg. D 5.0, replay 10.9; finetuning and the joint step collapse
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """5,000 real MNIST digits that come with pip, three tasks; every remaining row may be read."""
    streams = runpy.run_path(str(pathlib.Path(__file__).with_name("fashion_mnist.py")))
    config = streams["get_config"]()
    config.title = "Digits in a stream: learn, forget, learn on"
    config.seeds = (0,)
    config.data.name = "mnist"
    config.data.train_rows = None
    config.tasks = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
    config.memory.capacity = 500
    config.carry_out = ("mixed",)
    config.streams = ConfigDict(
        {
            "mixed": {
                "label": "five requests",
                "words": ("L1", "L2+U10%", "U{1}", "L3", "U10%"),
                "task_aware": False,
                "override": {"ug_clu": {"ascent": 1.0}},
            }
        }
    )
    config.compare = ("oracle", "oracle_again", "finetune", "replay", "er_salun", "joint", "ug_clu")
    return config
