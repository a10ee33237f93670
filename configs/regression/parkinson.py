"""The authors' demonstration: total UPDRS of Parkinson patients from 350 support points, settings as published.

Command: clujax run configs/regression/parkinson.py --workdir runs/parkinson --data.path=parkinson.npz
Time:    about two minutes on two CPU cores for the fit, some more for the full kernel machines
Result:  R² above 0.999. The subject's number is a feature, so this interpolates within subjects: no clinical claim.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Settings as the authors fixed them: nothing is chosen."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("table.py")))["get_config"]()
    config.title = "LAB-RBF regression: Parkinson"
    config.data.name = "parkinson"
    config.fit.n_max = 350
    del config.choose
    config.choose = config_dict.placeholder(dict)
    config.compare = ("krr_rbf", "krr_laplace", "ard")
    return config
