"""Soups of eight perceptrons fine-tuned from one start on handwritten digits.

Command: clujax run configs/soups/demo.py --workdir runs/soups
Time:    half a minute on two CPU cores (data that come with scikit-learn)
Result:  learned soups lower the held-out loss; with 400 such rows the uniform soup is as good on test rows
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The comparison of `fashion_mnist.py`, small."""
    config = runpy.run_path(str(pathlib.Path(__file__).parent / "fashion_mnist.py"))["get_config"]()
    config.title = "Soups of eight perceptrons on digits"
    config.seeds = (0, 1)
    config.data.name = "digits"
    config.data.pretrain_rows, config.data.tune_rows, config.data.held_rows = 300, 500, 400
    config.model.widths = (32, 32)
    config.pretrain.epochs, config.pretrain.batch_size, config.pretrain.learning_rate = 20.0, 32, 3e-3
    config.pool.count, config.pool.rows, config.pool.batch_size = 8, 200, 50
    config.pool.learning_rate = (3e-4, 3e-3)
    config.learn.batch_size = 50
    config.compare = ("best", "uniform", "greedy", "learned", "hl_plus", "mehl", "mehl_plus")
    return config
