"""CIFAR-10 sized for two CPU cores: 10,000 images, a perceptron that memorises them, 10 % random rows, three seeds.

Command: clujax run configs/unlearning/cifar10_cpu.py --workdir runs/cifar10_cpu --data.path=cifar10.npz
Time:    about ten minutes on two CPU cores, every network resumable
Result:  see docs/results/sfron.md
Data:    as configs/unlearning/cifar10.py
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The full config with a smaller network, slice and budget; no augmentation, so that the rows are memorised."""
    full = pathlib.Path(__file__).with_name("cifar10.py")
    config = runpy.run_path(str(full))["get_config"]()
    config.title = "Forgetting 10 % of 10,000 CIFAR-10 images, MLP"
    config.data.train_rows = 10_000
    config.data.test_rows = 5_000
    config.data.augment = "none"
    config.model = ConfigDict({"name": "mlp", "widths": (512, 256)})
    config.seeds = (0, 1, 2)
    config.checkpoint_every = 500
    config.log_every = 25
    config.compare = (
        "retrain",
        "retrain_again",
        "finetune",
        "gradient_ascent",
        "random_label",
        "salun",
        "fron",
        "sfron",
    )
    for settings in (config.pretrain, config.methods.retrain, config.methods.retrain_again):
        settings.epochs = 30
        settings.learning_rate = 0.05
    config.methods.finetune.epochs = 5
    config.methods.gradient_ascent.epochs = 5
    config.methods.gradient_ascent.learning_rate = 0.001
    config.methods.random_label.epochs = 5
    config.methods.random_label.learning_rate = 0.01
    config.methods.salun.epochs = 5
    config.methods.salun.fraction = 0.5
    for name in ("fron", "sfron"):
        config.methods[name].steps = 355
    return config
