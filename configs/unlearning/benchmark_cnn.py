"""The benchmark on a convolutional network with BatchNorm: what averages that are no weights do to each method.

Command: clujax run configs/unlearning/benchmark_cnn.py --workdir runs/benchmark_cnn
Time:    about an hour on two CPU cores; resumable after each method
Result:  see docs/results/unlearning.md
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The rows, requests and methods of the benchmark; widths 32, 64, 128, 40 epochs; three candidates where it has more.

    Convolutions under `vmap` are slow on a CPU, so the noise is that of a second retrained network, not of an ensemble.
    """
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("benchmark.py")))["get_config"]()
    config.title = "Unlearning benchmark: Fashion-MNIST, 2,000 rows, BatchNorm CNN"
    config.model = ConfigDict({"name": "cnn", "widths": (32, 64, 128)})
    recipe = {"epochs": 40, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    config.pretrain = ConfigDict(recipe)
    config.methods.retrain = ConfigDict(recipe)
    config.methods.retrain_again = ConfigDict({"method": "retrain"} | recipe)
    # NTK forgetting is left out: its convolutions stand in a loop, which XLA's CPU backend runs some 40 times slower.
    config.compare = ("retrain", "retrain_again", *(name for name in config.compare[1:] if name != "ntk"))
    del config.noise
    for section in config.methods.values():
        for name, values in section.get("sweep", {}).items():
            section.sweep[name] = (values[0], values[len(values) // 2], values[-1])[: len(values)]
    config.methods.fisher_forgetting.max_rows = 300
    config.methods.influence.rows = 300
    return config
