"""Forget on request from a digit classifier, and show it.

Command: clujax run configs/unlearning/demo.py --workdir runs/demo
Time:    about a minute on two CPU cores (after installation)
Result:  SFR-on within the noise of retraining on 10 % random rows; the forgotten class recognised no more.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """5,000 real MNIST digits that come with pip; two requests; every method side by side."""
    config = ConfigDict()
    config.system = "unlearning"
    config.title = "Forgetting digits on request"
    config.seeds = (0,)
    config.mesh = (("data", -1),)
    config.log_every = 10
    config.checkpoint_every = 500
    config.data = ConfigDict(
        {
            "name": "mnist",
            "path": config_dict.placeholder(str),
            "fallback": config_dict.placeholder(str),
            "train_rows": config_dict.placeholder(int),
            "test_rows": config_dict.placeholder(int),
            "augment": "none",
        }
    )
    config.model = ConfigDict({"name": "mlp", "widths": (256, 128)})
    config.pretrain = ConfigDict(
        {"epochs": 30, "batch_size": 128, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    )
    config.carry_out = ("random", "class")
    config.requests = ConfigDict(
        {
            "random": {"label": "10 % random rows", "scenario": "random", "fraction": 0.1},
            "class": {
                "label": "the whole class 8",
                "scenario": "class",
                "classes": (8,),
                "override": {"sfron": {"steps": 150}},
            },
        }
    )
    config.compare = (
        "retrain",
        "retrain_again",
        "finetune",
        "gradient_ascent",
        "random_label",
        "salun",
        "sfron",
    )
    config.methods = ConfigDict(
        {
            "retrain": config.pretrain.to_dict(),
            "retrain_again": {"method": "retrain"} | config.pretrain.to_dict(),
            "finetune": {"epochs": 5, "learning_rate": 0.01},
            "gradient_ascent": {"epochs": 9, "learning_rate": 0.003},
            "random_label": {"epochs": 5, "learning_rate": 0.01},
            "salun": {"epochs": 5, "learning_rate": 0.01, "fraction": 0.5},
            "sfron": {"steps": 150, "repair": 5, "ascent": 50.0},
        }
    )
    config.evidence = ConfigDict({"method": "sfron", "probe": {"rows": 256, "iterations": 15}})
    return config
