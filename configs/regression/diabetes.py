"""Predict the progression of diabetes from ten measurements with as few support points as its noise allows.

Command: clujax run configs/regression/diabetes.py --workdir runs/diabetes
Time:    about two minutes on two CPU cores
Result:  R² 0.45 ± 0.08 from about ten support points; full kernel machines reach 0.49 to 0.52 from all 354 rows
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What differs from a table by name: a small start, since the targets are noisy, and three splits."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("table.py")))["get_config"]()
    config.title = "LAB-RBF regression: diabetes"
    config.data.name = "diabetes"
    config.seeds = (0, 1, 2)
    config.fit.update({"n_init": 8, "n_max": 40, "least_growth": 4})
    return config
