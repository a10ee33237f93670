"""A whole unlearning run in seconds: digits, a small perceptron, two requests, a method that diverges, a choice, a noise."""

import runpy

from ml_collections import ConfigDict

import clujax


def get_config() -> ConfigDict:
    """The demo's config, cut down."""
    import pathlib

    demo = pathlib.Path(clujax.__file__).parent.parent / "configs" / "unlearning" / "demo.py"
    config = runpy.run_path(str(demo))["get_config"]()
    config.mesh = ()  # one device: eight virtual ones share two cores
    config.data.name = "digits"
    config.data.train_rows = 400
    config.data.test_rows = 200
    config.model.widths = (16,)
    config.checkpoint_every = 5
    config.log_every = 3
    config.carry_out = ("random", "class")
    config.requests["class"] = ConfigDict({"label": "class 3", "scenario": "class", "classes": (3,)})
    config.compare = ("retrain", "retrain_again", "finetune", "diverging", "exploding", "parts", "sfron")
    config.requests["class"].also = ("unsir",)
    config.data.validation_rows = 100
    config.noise = ConfigDict({"models": 3})
    config.relearn = ConfigDict({"max_steps": 3, "batch_size": 32})
    for name in ("retrain", "retrain_again"):
        config.methods[name].epochs = 4
    config.pretrain.epochs = 4
    config.methods.finetune = ConfigDict({"epochs": 1, "sweep": {"learning_rate": (1e-4, 0.05)}})
    config.methods.diverging = ConfigDict({"method": "neg_grad_plus", "epochs": 2, "keep": 0.0, "learning_rate": 1e6})
    config.methods.exploding = ConfigDict({"method": "influence", "scale": 1e38, "rows": 10})
    config.methods.parts = ConfigDict(
        {"method": "rum", "parts": ("", {"method": "finetune", "epochs": 1}, {"method": "salun", "epochs": 1})}
    )
    config.methods.unsir = ConfigDict({"noise_images": 4, "copies": 4, "per_class": 10})
    config.methods.sfron = ConfigDict(
        {
            "steps": 6,
            "repair": 3,
            "ascent": 20.0,
            "schedule": "linear",
            "objective": {"name": "adaptive_ascent", "exponent": 0.5},
        }
    )
    return config
