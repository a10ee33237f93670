"""The benchmark on a convolutional network with BatchNorm: what averages that are no weights do to each method.

Command: clujax run configs/unlearning/benchmark_cnn.py --workdir runs/benchmark_cnn
Time:    about half an hour on two CPU cores; resumable after each method
Result:  see docs/results/unlearning.md
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The rows, requests and methods of the benchmark; a CNN of widths 16 and 32, 40 epochs, the noise of four networks."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("benchmark.py")))["get_config"]()
    config.title = "Unlearning benchmark: Fashion-MNIST, 2,000 rows, BatchNorm CNN"
    config.model = ConfigDict({"name": "cnn", "widths": (16, 32)})
    recipe = {"epochs": 40, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    config.pretrain = ConfigDict(recipe)
    config.methods.retrain = ConfigDict(recipe)
    config.noise.models = 4
    return config
