"""Streams on CIFAR-10, ResNet-18: five tasks of two classes, a memory of 500 rows.

Command: clujax run configs/continual/cifar10.py --workdir runs/continual_cifar10 --data.path=cifar10.npz
Time:    GPU hours; not run yet
Data:    an .npz with x_train, y_train, x_test, y_test (uint8 NHWC), or a prepared tfds set
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """SGD 0.01, T = 5, α = 25, γ = 1, 1,500 iterations a request, as SFR-on has them; the base network in 200 epochs."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.title = "Learning and forgetting in a stream: CIFAR-10, ResNet-18, memory of 500 rows"
    config.seeds = (0,)
    config.data.name = "cifar10"
    config.data.train_rows = None
    config.data.augment = "crop_flip"
    config.model = ConfigDict({"name": "resnet", "depth": 18, "width": 64, "dtype": "bfloat16"})
    config.base.epochs, config.base.learning_rate = 200, 0.1
    for name in ("oracle", "oracle_again"):
        config.methods[name] = ConfigDict(
            ({"method": "oracle"} if name == "oracle_again" else {}) | config.base.to_dict()
        )
    budget = {"steps": 1500, "learning_rate": 0.01}
    for name in config.compare:
        if not name.startswith(("oracle", "er_")):
            config.methods[name].update(budget)
    config.methods.clpu.update(budget)
    for name in ("ug_clu", "ug_clu_no_mask"):
        config.methods[name].ascent = 25.0
    return config
