"""The run that test_processes.py shares among processes: the small unlearning run of the other tests, with less in it."""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    tiny = pathlib.Path(__file__).parents[1] / "unlearning" / "tiny.py"
    config = runpy.run_path(str(tiny))["get_config"]()
    config.mesh = (("data", -1),)
    config.carry_out = ("random",)
    config.compare = ("retrain", "finetune", "sfron")  # fine-tuning is a choice among learning rates
    config.noise.models = 2  # as many as there are devices: an ensemble over processes
    del config.relearn
    config.evidence.probe = {"rows": 16, "iterations": 2}
    config.pretrain.epochs = config.methods.retrain.epochs = 2
    return config
