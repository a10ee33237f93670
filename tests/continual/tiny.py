"""A whole run over two streams in seconds: digits, a small perceptron, a few methods, one of which diverges."""

import pathlib
import runpy

from ml_collections import ConfigDict

import clujax


def get_config() -> ConfigDict:
    """The demo's config, cut down."""
    demo = pathlib.Path(clujax.__file__).parent.parent / "configs" / "continual" / "demo.py"
    config = runpy.run_path(str(demo))["get_config"]()
    config.seeds = (0,)
    config.mesh = ()  # one device: eight virtual ones share two cores
    config.data.name = "digits"
    config.data.train_rows = 500
    config.data.test_rows = 200
    config.model.widths = (16,)
    config.base.epochs = 4
    config.memory.capacity = 60
    config.tasks = ((0, 1, 2), (3, 4), (5, 6))
    config.carry_out = ("mixed", "aware")
    config.streams = ConfigDict(
        {
            "mixed": {
                "label": "a short stream",
                "words": ("L1", "L2+U10%", "U{1}"),
                "task_aware": False,
                "also": ("diverging",),
            },
            "aware": {"words": ("L1", "L2", "U1"), "task_aware": True, "also": ("clpu",)},
        }
    )
    config.compare = ("oracle", "oracle_again", "er_salun", "ug_clu")
    quick = {"steps": 12, "batch_size": 32}
    salun = {"method": "clujax.unlearning:salun", "epochs": 1, "batch_size": 32}
    methods = {"oracle": config.base.to_dict(), "oracle_again": {"method": "oracle"} | config.base.to_dict()}
    methods |= {
        "replay": quick,
        "er_salun": {"method": "after", "learn": {"method": "replay"} | quick, "unlearning": salun},
    }
    methods |= {"diverging": {"method": "joint", "learning_rate": 1e30} | quick, "ug_clu": quick | {"ascent": 1.0}}
    config.methods = ConfigDict(methods | {"clpu": quick})
    config.deploy = ConfigDict({"method": "ug_clu", "classes": (0, 1, 2), "task_aware": False})
    return config
