"""Soups of sixteen perceptrons fine-tuned from one start on Fashion-MNIST: every method of the paper, and what goes beyond.

Command: clujax run configs/soups/fashion_mnist.py --workdir runs/soups
Needs:   Fashion-MNIST (docs/data.md)
Time:    about four minutes on two CPU cores
Result:  test NLL uniform 0.59, learned 0.59, MEHL-Soup 0.56, MEHL-Soup+ 0.55, HL-Soup+ 0.53 (a start unlike that of
         docs/results/mehl_soup.md, whose pools are a little better)
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """4,000 rows for the start, 6,000 to fine-tune on, 2,000 held out; four seeds."""
    config = ConfigDict()
    config.system = "soups"
    config.title = "Soups of sixteen perceptrons on Fashion-MNIST"
    config.seeds = (0, 1, 2, 3)
    config.data = ConfigDict(
        {
            "name": "fashion_mnist",
            "path": config_dict.placeholder(str),
            "inputs": "unit",
            "pretrain_rows": 4000,
            "tune_rows": 6000,
            "held_rows": 2000,
        }
    )
    config.model = ConfigDict({"name": "mlp", "widths": (256, 64)})
    config.pretrain = ConfigDict({"epochs": 3.0, "batch_size": 128, "learning_rate": 1e-3})
    config.pool = ConfigDict(
        {
            # Finished runs or orbax directories; then the fields below and `pretrain` are not used.
            "directories": (),
            "count": 16,
            "rows": 1500,
            "epochs": 12.0,
            "batch_size": 128,
            "learning_rate": (1e-4, 6e-4),
            "weight_decay": (1e-4, 1e-2),
            "label_smoothing": (0.0, 0.05, 0.1),
            "noise": (0.0, 0.05, 0.1),
        }
    )
    config.learn = ConfigDict({"batch_size": 125, "learning_rate": 0.05, "epochs": 5})
    config.methods = ConfigDict(
        {
            "best": {"label": "best model", "kind": "best"},
            "uniform": {"label": "uniform", "kind": "uniform"},
            "greedy": {"label": "greedy", "kind": "greedy"},
            "learned": {"label": "Learned-Soup", "kind": "learned", "groups": "whole"},
            "learned_plus": {"label": "Learned-Soup+", "kind": "learned"},
            "hl": {"label": "HL-Soup", "groups": "whole"},
            "hl_plus": {"label": "HL-Soup+"},
            "mehl": {"label": "MEHL-Soup, b = 4", "groups": "whole", "block_size": 4},
            "mehl_plus": {"label": "MEHL-Soup+, b = 4", "block_size": 4},
            "paper": {
                "label": "MEHL-Soup, b = 4, paper's form",
                "groups": "whole",
                "block_size": 4,
                "reference": "pool_mean",
                "sweeps": 3,
            },
            "inside": {"label": "MEHL-Soup+, b = 4, weights in [0, 1]", "block_size": 4, "extrapolate": False},
            "gauss_newton": {"label": "HL-Soup+, Gauss–Newton", "inner": "gauss_newton", "steps": 3},
        }
    )
    config.compare = (
        *("best", "uniform", "greedy", "learned", "learned_plus", "hl", "mehl", "paper", "inside"),
        *("mehl_plus", "hl_plus", "gauss_newton"),
    )
    return config
