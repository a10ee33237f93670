"""One request that learns two classes and forgets: the strength of ascent, its parts, and the joint step beside them.

Command: clujax run configs/continual/fashion_mnist_request.py --workdir runs/continual_request
Time:    about ten minutes on two CPU cores
Result:  random rows: UG-CLU Avg. D 3.4 (α = 1), 3.8 (10), 8.4 (40); the joint step collapses from α = 10 on
Data:    apt-get install dataset-fashion-mnist, or --data.path=...
"""

import pathlib
import runpy

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Trained on classes 0–4; learn 5 and 6, forget 10 % of the old rows or class 1; all remaining rows may be read."""
    streams = runpy.run_path(str(pathlib.Path(__file__).with_name("fashion_mnist.py")))
    config = streams["get_config"]()
    config.title = "One request to learn and forget: Fashion-MNIST, MLP, all remaining rows"
    config.tasks = ((0, 1, 2, 3, 4), (5, 6))
    config.memory.capacity = 0
    config.carry_out = ("random", "category")
    config.streams = ConfigDict(
        {
            "random": {
                "label": "learn 2 classes, forget 10 % random rows",
                "words": ("L1", "L2+U10%"),
                "task_aware": False,
            },
            "category": {"label": "learn 2 classes, forget class 1", "words": ("L1", "L2+U{1}"), "task_aware": False},
        }
    )
    remain = {"replay": "remain"}
    relabel = {"objective": {"name": "random_relabel", "num_classes": 10}}
    plain = {"objective": {"name": "adaptive_ascent", "exponent": 0.0}}
    no_mask = {"threshold": config_dict.placeholder(float)}
    strengths = {"random": (1.0, 10.0, 40.0), "category": (0.1, 1.0)}
    methods = {name: config.methods[name].to_dict() for name in ("oracle", "oracle_again", "finetune")}
    methods |= {
        "replay": remain,
        "joint_relabel": {"method": "joint", "ascent": 1.0, "max_norm": 7.0} | relabel | remain,
    }
    methods["ug_clu_relabel"] = {"method": "ug_clu", "ascent": 1.0} | relabel | remain
    labels = {"joint_relabel": "Joint, random label", "ug_clu_relabel": "UG-CLU, random label"}
    shared = tuple(methods)
    for stream, values in strengths.items():
        also = []
        for ascent in values:
            arms = {
                "joint_ascent": ("Joint, ascent", {"method": "joint", "exponent": 0.0, "max_norm": 7.0}),
                "joint": ("Joint, adaptive", {"method": "joint", "max_norm": 7.0}),
                "fs_ascent": ("Fast–slow, ascent", {"method": "ug_clu"} | plain | no_mask),
                "fs": ("Fast–slow, adaptive", {"method": "ug_clu"} | no_mask),
                "ug_clu": ("UG-CLU", {"method": "ug_clu"}),
            }
            for key, (label, settings) in arms.items():
                name = f"{key}_{ascent:g}".replace(".", "_")
                methods[name] = settings | remain | {"ascent": ascent}
                labels[name] = f"{label}, α {ascent:g}"
                also.append(name)
        config.streams[stream].also = tuple(also)
    config.compare = shared
    config.methods = ConfigDict(methods)
    config.labels = ConfigDict(labels)
    config.focus = "ug_clu_1"
    return config
