"""The benchmark: every method on a class and on random rows of Fashion-MNIST, three seeds, beside an ensemble of retrainings.

Command: clujax run configs/unlearning/benchmark.py --workdir runs/benchmark
Time:    about half an hour on two CPU cores; resumable after each method
Result:  see docs/results/unlearning.md
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """2,000 images pooled to 14 × 14, MLP 196-128-128-10, 80 epochs; then five epochs or their like for every method.

    What each method leaves open is chosen once, on 1,000 validation rows, by the gap to a retrained network: `sweep`.
    """
    config = ConfigDict()
    config.system = "unlearning"
    config.title = "Unlearning benchmark: Fashion-MNIST, 2,000 rows, MLP"
    config.seeds = (0, 1, 2)
    config.mesh = (("data", -1),)
    config.log_every = 20
    config.checkpoint_every = 1000
    config.data = ConfigDict(
        {
            "name": "fashion_mnist",
            "path": config_dict.placeholder(str),
            "fallback": config_dict.placeholder(str),
            "train_rows": 2_000,
            "test_rows": 2_000,
            "validation_rows": 1_000,
            "order_seed": 0,
            "pool": 2,
            "inputs": "unit",
            "augment": "none",
        }
    )
    config.model = ConfigDict({"name": "mlp", "widths": (128, 128)})
    recipe = {"epochs": 80, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    config.pretrain = ConfigDict(recipe)
    config.carry_out = ("class", "random")
    config.requests = ConfigDict(
        {
            "class": {
                "label": "the whole class 3 (dress)",
                "scenario": "class",
                "classes": (3,),
                "also": ("unsir", "boundary_shrink", "boundary_expand"),
            },
            "random": {"label": "200 random rows", "scenario": "random", "fraction": 0.1},
        }
    )
    config.compare = (
        "retrain",
        "finetune",
        "l1_sparse",
        "cf_k",
        "eu_k",
        "gradient_ascent",
        "neg_grad_plus",
        "npo",
        "sim_npo",
        "random_label",
        "salun",
        "scrub",
        "scrub_r",
        "bad_teacher",
        "ssd",
        "fisher_forgetting",
        "influence",
        "ntk",
        "rum",
        "muso",
        "muso_random",
        "muso_published",
        "sfron",
    )
    config.labels = ConfigDict(
        {
            "muso": "MUSO",
            "muso_random": "MUSO, random features",
            "muso_published": "MUSO, published formula",
        }
    )
    batch = {"batch_size": 100}
    config.methods = ConfigDict(
        {
            "retrain": recipe,
            "finetune": batch | {"epochs": 5, "sweep": {"learning_rate": (0.03, 0.1, 0.3)}},
            "l1_sparse": batch | {"epochs": 10, "learning_rate": 0.05, "sweep": {"strength": (1e-4, 3e-4, 1e-3)}},
            "cf_k": batch | {"epochs": 5, "k": 1, "sweep": {"learning_rate": (0.03, 0.1, 0.3)}},
            "eu_k": batch | {"epochs": 20, "learning_rate": 0.1, "sweep": {"k": (1, 2)}},
            "gradient_ascent": batch | {"epochs": 9, "sweep": {"learning_rate": (0.003, 0.01, 0.03, 0.1, 0.3)}},
            "neg_grad_plus": batch | {"epochs": 5, "learning_rate": 0.02, "sweep": {"keep": (0.9, 0.97, 0.99, 0.997)}},
            "npo": batch | {"epochs": 5, "learning_rate": 0.02, "sweep": {"remain_weight": (0.5, 1.0, 3.0, 10.0)}},
            "sim_npo": batch | {"epochs": 5, "learning_rate": 0.02, "sweep": {"remain_weight": (0.5, 1.0, 3.0, 10.0)}},
            "random_label": batch | {"epochs": 5, "sweep": {"learning_rate": (0.003, 0.01, 0.03)}},
            "salun": batch | {"epochs": 5, "fraction": 0.5, "sweep": {"learning_rate": (0.003, 0.01, 0.03)}},
            "scrub": batch | {"epochs": 5, "sweep": {"learning_rate": (0.003, 0.01, 0.03)}},
            "scrub_r": batch | {"epochs": 5, "forget_epochs": 3, "sweep": {"learning_rate": (0.003, 0.01, 0.03)}},
            "bad_teacher": batch | {"epochs": 5, "sweep": {"learning_rate": (0.1, 0.3, 1.0)}},
            "unsir": batch | {"sweep": {"impair_rate": (1e-5, 1e-4, 3e-4)}},
            "boundary_shrink": batch | {"epochs": 5, "sweep": {"learning_rate": (3e-4, 1e-3, 3e-3)}},
            "boundary_expand": batch | {"epochs": 5, "sweep": {"learning_rate": (3e-3, 1e-2, 3e-2)}},
            "ssd": batch | {"sweep": {"selection": (2.0, 5.0, 10.0, 20.0, 50.0)}},
            "fisher_forgetting": {"sweep": {"strength": (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)}},
            "influence": {"rows": 1000, "sweep": {"scale": (1.0, 3.0, 10.0, 30.0)}},
            "ntk": {"around": "initial", "sweep": {"scale": (1.0, 3.0, 10.0)}},
            "rum": {
                "parts": (
                    None,
                    batch | {"method": "finetune", "epochs": 5, "learning_rate": 0.05},
                    batch | {"method": "salun", "epochs": 2, "learning_rate": 0.03},
                )
            },
            "muso": batch | {"epochs": 5},
            "muso_random": batch | {"method": "muso", "epochs": 10, "source": "random"},
            "muso_published": batch | {"method": "muso", "epochs": 5, "formula": "published"},
            "sfron": batch | {"steps": 100, "repair": 5, "sweep": {"ascent": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)}},
        }
    )
    config.noise = ConfigDict({"models": 8})
    config.evidence = ConfigDict({"method": "muso", "probe": {"rows": 256, "iterations": 15}})
    return config
