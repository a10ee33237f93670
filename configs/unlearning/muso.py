"""MUSO beside relabelling and finetuning with fixed settings: a class, and 200 random rows, of 2,000 Fashion-MNIST images.

Command: clujax run configs/unlearning/muso.py --workdir runs/muso
Time:    about five minutes on two CPU cores
Result:  class: MUSO's mean gap below 3 and below a third of random label's; random rows: MUSO from random features nearest
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The rows, network and requests of the benchmark; nothing is chosen, every setting stands here."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("benchmark.py")))["get_config"]()
    config.title = "MUSO on Fashion-MNIST, 2,000 rows, MLP"
    batch, retrain = {"batch_size": 100}, config.methods.retrain.to_dict()
    methods = {
        "retrain": retrain,
        "retrain_again": {"method": "retrain"} | retrain,
        "finetune": batch | {"epochs": 5, "learning_rate": 0.02},
        "random_label": batch | {"epochs": 5, "learning_rate": 0.01},
        "salun": batch | {"epochs": 5, "learning_rate": 0.01, "fraction": 0.5},
        "bad_teacher": batch | {"epochs": 5, "learning_rate": 0.1},
        "l1_sparse": batch | {"epochs": 10, "learning_rate": 0.02, "strength": 2e-4},
        "neg_grad_plus": batch | {"epochs": 5, "learning_rate": 0.02, "keep": 0.9},
        "muso": batch | {"epochs": 5},
        "muso_published": batch | {"method": "muso", "epochs": 5, "formula": "published"},
        "muso_random_5": batch | {"method": "muso", "epochs": 5, "source": "random"},
        "muso_random": batch | {"method": "muso", "epochs": 10, "source": "random"},
    }
    config.methods = ConfigDict(methods)
    config.compare = tuple(methods)
    config.requests["class"].also = ()
    config.labels.muso_random_5 = "MUSO, random features, 5 epochs"
    config.labels.muso_random = "MUSO, random features, 10 epochs"
    del config.noise
    return config
