"""EfficientNet-lite0: shapes of a small one, refusals of its reader, and pictures where the published weights are here."""

import importlib.util
import pathlib
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

from clujax.errors import DataNotFoundError
from clujax.models.efficientnet_lite0 import efficientnet_lite0
from clujax.models.torch_pickle import read_state


def picture(name):
    folder = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    with Image.open(pathlib.Path(folder) / "datasets" / "images" / name) as found:
        side = min(found.size) * 0.875
        left, top = ((extent - side) / 2 for extent in found.size)
        box = (left, top, left + side, top + side)
        return np.asarray(found.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, box=box))


def test_published_weights_see_a_daisy_and_a_palace():
    try:
        net = efficientnet_lite0()
    except DataNotFoundError as error:
        if "damaged" in str(error) or "sha256" in str(error):
            raise
        pytest.skip(str(error))
    apply = jax.jit(lambda x: net.classifier.apply(net.params, net.stats, x)[0])
    logits = apply(np.stack([picture("flower.jpg"), picture("china.jpg")]))
    assert logits.argmax(-1).tolist() == [985, 698]


def test_a_missing_and_a_damaged_file(tmp_path):
    with pytest.raises(DataNotFoundError):
        efficientnet_lite0(path=tmp_path / "none.pth")
    (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"x" * 100)
    with pytest.raises(DataNotFoundError, match="sha256"):
        efficientnet_lite0(path=tmp_path)


def test_a_pickle_that_calls_for_more_than_tensors_is_refused():
    class Evil:
        def __reduce__(self):
            return print, ("called",)

    parts = [0x1950A86A20F9469CFC6C, 1001, {}, {"w": Evil()}]
    content = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    with pytest.raises((pickle.UnpicklingError, DataNotFoundError)):
        read_state(content, "evil.pth")
