"""The authors' demonstration: total UPDRS of Parkinson patients from 350 support points, settings as published.

Command: clujax run configs/regression/parkinson.py --workdir runs/parkinson --data.path=parkinson.npz
Time:    about two minutes on two CPU cores for the fit, some more for the full kernel machines
Result:  R² above 0.999. The subject's number is a feature, so this interpolates within subjects: no clinical claim.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Settings as the authors fixed them: nothing is chosen."""
    config = ConfigDict()
    config.system = "regression"
    config.title = "LAB-RBF regression: Parkinson"
    config.task = "regression"
    config.seeds = (0,)
    config.mesh = (("data", -1),)
    config.data = ConfigDict(
        {
            "name": "parkinson",
            "path": config_dict.placeholder(str),
            "target": config_dict.placeholder(str),
            "test_share": 0.2,
        }
    )
    config.fit = ConfigDict(
        {
            "n_max": 350,
            "kernel": "laplacian",
            "bandwidth_mode": "local",
            "ridge": 1e-3,
            "bandwidth": 30.0,
            "start": "stratified",
            "selection": "residual",
            "loss": "mse",
            "batch_size": 128,
            "learning_rate": 1e-2,
            "grow_steps": 500,
            "final_steps": 5000,
        }
    )
    config.choose = config_dict.placeholder(dict)
    config.compare = ("krr_rbf", "krr_laplace", "ard")
    config.figures = ConfigDict({"features": ()})
    return config
