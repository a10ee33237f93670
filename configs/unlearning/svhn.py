"""SVHN, ResNet-18, 10 % random rows forgotten: the settings of CIFAR-10 on another data set.

Command: clujax run configs/unlearning/svhn.py --workdir runs/svhn --data.path=svhn.npz
Time:    as configs/unlearning/cifar10.py, by the number of rows; not measured here
Result:  not measured here; read every gap beside the noise floor in the table
Data:    an .npz with x_train, y_train, x_test, y_test (uint8 NHWC), or a prepared tfds set
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What differs from the CIFAR-10 config."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("cifar10.py")))["get_config"]()
    config.title = "Forgetting 10 % of SVHN, ResNet-18"
    config.data.name = "svhn"
    config.data.augment = "none"
    return config
