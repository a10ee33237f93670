"""The small table of SFR-on on Fashion-MNIST: an MLP, 10 % random rows, three seeds, every comparator and ablation.

Command: clujax run configs/unlearning/fashion_mnist.py --workdir runs/fashion_mnist
Time:    about six minutes on two CPU cores
Result:  SFR-on mean Avg. D at most 2.5 and mean KL at most 0.18; floor 0 does nothing and says so.
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The first 10,000 training images, MLP 784-256-128-10, 30 epochs, then a budget of five epochs."""
    config = ConfigDict()
    config.system = "unlearning"
    config.title = "Forgetting 10 % of Fashion-MNIST, MLP"
    config.seeds = (0, 1, 2)
    config.mesh = (("data", -1),)
    config.log_every = 25
    config.checkpoint_every = 2000
    config.data = ConfigDict(
        {
            "name": "fashion_mnist",
            "path": config_dict.placeholder(str),
            "fallback": config_dict.placeholder(str),
            "train_rows": 10_000,
            "test_rows": config_dict.placeholder(int),
            "augment": "none",
        }
    )
    config.model = ConfigDict({"name": "mlp", "widths": (256, 128)})
    config.pretrain = ConfigDict(
        {"epochs": 30, "batch_size": 128, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    )
    config.carry_out = ("random",)
    config.requests = ConfigDict({"random": {"label": "10 % random rows", "scenario": "random", "fraction": 0.1}})
    ascent = {"name": "adaptive_ascent"}
    config.compare = (
        "retrain",
        "retrain_again",
        "finetune",
        "gradient_ascent",
        "random_label",
        "salun",
        "scrub",
        "bad_teacher",
        "ron",
        "fron",
        "sfron",
        "sfron_no_floor",
        "euclidean",
        "fixed_fisher",
        "remain_newton",
        "remain_newton_alone",
    )
    config.methods = ConfigDict(
        {
            "retrain": config.pretrain.to_dict(),
            "retrain_again": {"method": "retrain"} | config.pretrain.to_dict(),
            "finetune": {"epochs": 5, "learning_rate": 0.01},
            "gradient_ascent": {"epochs": 9, "learning_rate": 0.003},
            "random_label": {"epochs": 5, "learning_rate": 0.01},
            "salun": {"epochs": 5, "learning_rate": 0.01, "fraction": 0.5},
            "scrub": {"epochs": 5, "learning_rate": 0.003},
            "bad_teacher": {"epochs": 5, "learning_rate": 0.1},
            "ron": {
                "method": "sfron",
                "ascent": 1.0,
                "threshold": config_dict.placeholder(float),
                "objective": ascent | {"exponent": 0.0},
            },
            "fron": {"method": "sfron", "ascent": 20.0, "threshold": config_dict.placeholder(float)},
            "sfron": {"ascent": 50.0, "objective": ascent | {"exponent": 0.5, "floor": 1e-3}},
            "sfron_no_floor": {
                "method": "sfron",
                "ascent": 50.0,
                "objective": ascent | {"exponent": 0.5, "floor": 0.0},
            },
            # One step an iteration: a fifth of the weight and of the norm of a forget step every fifth.
            "euclidean": {"ascent": 10.0, "max_norm": 1.4},
            "fixed_fisher": {"ascent": 10.0, "max_norm": 1.4},
            "remain_newton": {"ascent": 10.0, "max_norm": 1.4, "remain_weight": 1.0},
            "remain_newton_alone": {"method": "remain_newton", "ascent": 10.0, "max_norm": 1.4},
        }
    )
    config.evidence = ConfigDict({"method": "sfron", "probe": {"rows": 256, "iterations": 15}})
    return config
