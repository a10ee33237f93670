"""CIFAR-10, ResNet-18, 10 % random rows forgotten by SFR-on: the paper's table with batches for a whole slice.

Command: clujax run configs/pods/resnet18_cifar10.py --workdir /share/resnet18 --data.path=cifar10.npz
Plan:    clujax plan configs/pods/resnet18_cifar10.py --topology v5e:4x4
Time:    planned for a step of SFR-on (docs/results/pods.md), not run:
         v5e-16: 0.25 of 15.8 GiB a chip, 0.94 to 1.9 ms, compute binds
         v5e-256: 0.14 of 15.8 GiB a chip, 0.23 to 0.53 ms, memory binds
         v6e-64: 0.14 of 31.2 GiB a chip, 0.22 to 0.4 ms, network binds
Data:    as configs/unlearning/cifar10.py
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings of configs/unlearning/cifar10.py with batches of 1,024 rows and rates in proportion."""
    folder = pathlib.Path(__file__).parents[1] / "unlearning"
    config = runpy.run_path(str(folder / "cifar10.py"))["get_config"]()
    config.title = "Forgetting 10 % of CIFAR-10, ResNet-18, on a slice"
    config.checkpoints = ConfigDict({"keep": 2, "grace_seconds": 30.0})
    config.compare = ("retrain", "finetune", "sfron")
    for recipe in (config.pretrain, config.methods.retrain, config.methods.finetune):
        recipe.batch_size = 1024
        recipe.learning_rate = 8 * recipe.learning_rate
    config.methods.sfron.batch_size = 1024
    return config
