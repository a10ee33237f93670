"""SFR-on on a BatchNorm ResNet-18 of width 16, 2,000 Fashion-MNIST images, 10 % random rows.

Command: clujax run configs/unlearning/fashion_mnist_resnet18.py --workdir runs/fashion_mnist_resnet18
Time:    about ten minutes on two CPU cores
Result:  see docs/results/sfron.md
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """A small slice, since convolutions are slow on a CPU; 12 epochs, then a budget of three."""
    config = ConfigDict()
    config.system = "unlearning"
    config.title = "Forgetting 10 % of Fashion-MNIST, ResNet-18 (width 16, BatchNorm)"
    config.seeds = (0,)
    config.mesh = (("data", -1),)
    config.log_every = 20
    config.checkpoint_every = 64
    config.data = ConfigDict(
        {
            "name": "fashion_mnist",
            "path": config_dict.placeholder(str),
            "fallback": config_dict.placeholder(str),
            "train_rows": 2_000,
            "test_rows": 2_000,
            "augment": "none",
        }
    )
    config.model = ConfigDict({"name": "resnet", "depth": 18, "width": 16})
    config.pretrain = ConfigDict(
        {"epochs": 12, "batch_size": 64, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    )
    config.carry_out = ("random",)
    config.requests = ConfigDict({"random": {"label": "10 % random rows", "scenario": "random", "fraction": 0.1}})
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
    shared = {"batch_size": 64}
    config.methods = ConfigDict(
        {
            "retrain": config.pretrain.to_dict(),
            "retrain_again": {"method": "retrain"} | config.pretrain.to_dict(),
            "finetune": shared | {"epochs": 3, "learning_rate": 0.01},
            "gradient_ascent": shared | {"epochs": 5, "learning_rate": 0.001},
            "random_label": shared | {"epochs": 3, "learning_rate": 0.01},
            "salun": shared | {"epochs": 3, "learning_rate": 0.01, "fraction": 0.5},
            "fron": shared
            | {"method": "sfron", "steps": 85, "ascent": 10.0, "threshold": config_dict.placeholder(float)},
            "sfron": shared | {"steps": 85, "ascent": 25.0},
        }
    )
    config.evidence = ConfigDict({"method": "sfron", "probe": {"rows": 64, "iterations": 5}})
    return config
