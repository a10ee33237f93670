"""ImageNet, ViT-B/16, 10 % random rows forgotten by SFR-on: fully sharded over 16 chips, data parallel over the rest.

Command: clujax run configs/pods/vit_b16_imagenet.py --workdir /share/vit_b16 --data.path=FOLDER
Plan:    clujax plan configs/pods/vit_b16_imagenet.py --topology v5e:16x16
Time:    planned for a step of SFR-on (docs/results/pods.md), not run:
         v5e-16: 7.61 of 15.8 GiB a chip, 510 to 682 ms, memory binds
         v5e-256: 0.49 of 15.8 GiB a chip, 10 to 18 ms, compute binds
         v6e-64: 1.02 of 31.2 GiB a chip, 13 to 25 ms, memory binds
Data:    as configs/pods/resnet50_imagenet.py
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What differs from the ResNet-50 config: the network, its layout, recomputation."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("resnet50_imagenet.py")))["get_config"]()
    config.title = "Forgetting 10 % of ImageNet, ViT-B/16"
    config.mesh = (("data", -1), ("fsdp", 16), ("model", 1))
    config.rules = (
        ("(query|key|value)/kernel", "partition", "fsdp", "model", None),
        ("out/kernel", "partition", "model", None, "fsdp"),
        ("Dense_0/kernel", "partition", "fsdp", "model"),
        ("Dense_1/kernel", "partition", "model", "fsdp"),
        (".*", "fsdp"),
    )
    config.model = ConfigDict(
        {
            "name": "vit",
            "image_size": 224,
            "patch": 16,
            "width": 768,
            "depth": 12,
            "num_heads": 12,
            "remat": True,
            "dtype": "bfloat16",
        }
    )
    config.accumulate = 1
    return config
