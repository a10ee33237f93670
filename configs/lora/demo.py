"""LoRA against Flat-LoRA on shifted digits with wrong labels: noise flattens the minimum of the merged network.

Command: clujax run configs/lora/demo.py --workdir runs/lora
Time:    about a minute on two CPU cores (data that come with scikit-learn)
Result:  sharpness falls as σ grows; accuracy within a few points on so few digits
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """A perceptron pretrained on upright digits learns digits moved by a pixel from 300 of them, a fifth mislabelled."""
    config = ConfigDict()
    config.system = "lora"
    config.title = "Flat-LoRA on moved digits"
    config.task = "images"
    config.seeds = (0, 1)
    config.data = ConfigDict(
        {
            "name": "digits",
            "path": config_dict.placeholder(str),
            "inputs": "unit",
            "pretrain_rows": 1000,
            "train_rows": 300,
            "label_noise": 0.2,
            "roll": (1, 1),
            "corrupt": (0.1, 0.2),
        }
    )
    config.model = ConfigDict({"name": "mlp", "widths": (64, 32)})
    config.pretrain = ConfigDict({"epochs": 20.0, "batch_size": 64, "learning_rate": 1e-3})
    config.adapt = ConfigDict(
        {
            "patterns": (("kernel", 0),),
            "rank": 8,
            "alpha": 16.0,
            "scaling": "standard",
            "init": "kaiming",
            "magnitude": False,
            "epochs": 60.0,
            "batch_size": 50,
            "learning_rate": 1e-2,
            "warmup": 0.03,
            "weight_decay": 0.0,
            "max_norm": 0.0,
            "checkpoint_every": 200,
        }
    )
    config.methods = ConfigDict(
        {
            "lora": {"label": "LoRA"},
            "flat": {"label": "Flat-LoRA, σ 0.1", "objective": "flat", "sigma": 0.1},
            "flat_more": {"label": "Flat-LoRA, σ 0.3", "objective": "flat", "sigma": 0.3},
            "lora_sam": {"label": "LoRA-SAM", "objective": "lora_sam", "rho": 0.05},
            "merged_sam": {"label": "SAM on merged kernels", "objective": "merged_sam", "rho": 0.05},
        }
    )
    config.compare = ("lora", "flat", "flat_more", "lora_sam", "merged_sam")
    config.measure = ConfigDict({"rows": 300, "taus": (0.1, 0.2), "draws": 8, "points": 15, "span": 1.0, "plane": True})
    return config
