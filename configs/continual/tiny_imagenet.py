"""Streams on Tiny-ImageNet, ViT: ten tasks of twenty classes, a memory of 5,120 rows.

Command: clujax run configs/continual/tiny_imagenet.py --workdir runs/continual_tiny --data.path=tiny-imagenet-200
Time:    GPU hours; not run yet
Data:    folders of images by class, or a prepared tfds set
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings of `cifar10.py` with ten tasks; α = 500 and T = 1 as SFR-on has them for AdamW-trained transformers."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("cifar10.py")))["get_config"]()
    config.title = "Learning and forgetting in a stream: Tiny-ImageNet, ViT, memory of 5,120 rows"
    config.data.name = "tiny_imagenet"
    config.model = ConfigDict({"name": "vit", "dtype": "bfloat16"})
    config.memory.capacity = 5120
    config.tasks = tuple(tuple(range(first, first + 20)) for first in range(0, 200, 20))
    words = {
        "random": ("L1", "L2", "L3+U10%", "L4", "L5+U10%", "L6", "L7", "U10%", "L8", "L9", "L10+U10%"),
        "category": (
            "L1",
            "L2",
            "L3+U{0,1,20,21}",
            "L4",
            "L5+U{40,41,60,61}",
            "L6",
            "L7",
            "U{100,101}",
            "L8",
            "L9",
            "L10",
        ),
        "aware": ("L1", "L2", "L3", "U1", "L4", "U3", "L5", "L6", "L7", "U5", "L8", "L9", "L10"),
    }
    for name, each in words.items():
        config.streams[name].words = each
    for name in ("joint_relabel", "ug_clu_relabel"):
        config.methods[name].objective.num_classes = 200
    for name in ("ug_clu", "ug_clu_no_mask"):
        config.methods[name].update({"ascent": 500.0, "repair": 1, "steps": 500})
    return config
