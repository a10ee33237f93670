"""ImageNet, ResNet-50, 10 % random rows forgotten by SFR-on: data parallel, bfloat16.

Command: clujax run configs/pods/resnet50_imagenet.py --workdir /share/resnet50 --data.path=FOLDER
Plan:    clujax plan configs/pods/resnet50_imagenet.py --topology v5e:4x4
Time:    planned for a step of SFR-on (docs/results/pods.md), not run:
         v5e-16: 9.58 of 15.8 GiB a chip, 79 to 110 ms, memory binds
         v5e-256: 1.00 of 15.8 GiB a chip, 2.5 to 5 ms, memory binds
         v6e-64: 3.07 of 31.2 GiB a chip, 8.8 to 11 ms, memory binds
Data:    a folder of x_train.npy, y_train.npy, x_test.npy, y_test.npy (uint8 NHWC, 224 pixels)
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Batches of 4,096 rows; 90 epochs, then a request by SFR-on beside retraining and fine-tuning."""
    config = ConfigDict()
    config.system = "unlearning"
    config.title = "Forgetting 10 % of ImageNet, ResNet-50"
    config.seeds = (0,)
    config.mesh = (("data", -1),)
    config.log_every = 100
    config.checkpoint_every = 500
    config.checkpoints = ConfigDict({"keep": 2, "keep_every": 20_000, "grace_seconds": 30.0})
    config.data = ConfigDict(
        {
            "name": "imagenet",
            "path": config_dict.placeholder(str),
            "fallback": config_dict.placeholder(str),
            "train_rows": config_dict.placeholder(int),
            "test_rows": config_dict.placeholder(int),
            "augment": "crop_flip",
        }
    )
    config.model = ConfigDict({"name": "resnet", "depth": 50, "width": 64, "stem": "large", "dtype": "bfloat16"})
    config.pretrain = ConfigDict(
        {"epochs": 90, "batch_size": 4096, "learning_rate": 1.6, "momentum": 0.9, "weight_decay": 5e-5}
    )
    config.carry_out = ("random",)
    config.requests = ConfigDict({"random": {"label": "10 % random rows", "scenario": "random", "fraction": 0.1}})
    config.compare = ("retrain", "finetune", "sfron")
    config.methods = ConfigDict(
        {
            "retrain": config.pretrain.to_dict(),
            "finetune": {"epochs": 1, "batch_size": 4096, "learning_rate": 0.05},
            "sfron": {"steps": 1500, "repair": 5, "ascent": 25.0, "batch_size": 4096},
        }
    )
    config.evidence = ConfigDict({"method": "sfron", "probe": {"rows": 64, "iterations": 5}})
    return config
