"""Rows as a config asks for them."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from clujax.adaptation.settings import select_rows
from clujax.data import Dataset, Source
from clujax.errors import ConfigError

ROWS = {
    "x": np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1),
    "y": np.arange(6, dtype=np.int32),
    "index": np.arange(6),
}
SET = Dataset(ROWS, ROWS, tuple("abcdef"), Source("npz", "x.npz", "", "", 12))


def settings(**given):
    return ConfigDict({"name": "some", "train_rows": 4, "test_rows": None} | given)


@pytest.mark.parametrize("held", [None, 2])
def test_images_are_averaged_over_squares_with_and_without_validation_rows(held):
    train, test, validation = select_rows(SET, settings(pool=2, validation_rows=held))
    assert train["x"].shape == (4, 2, 2, 1)
    np.testing.assert_allclose(train["x"][0, 0, 0, 0], np.mean([0, 1, 4, 5]) / 255, rtol=1e-6)
    assert len(test["y"]) == 6
    assert (validation is None) == (held is None)
    if held:
        assert validation["y"].tolist() == [4, 5]


def test_more_rows_than_there_are_and_squares_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="has 6 train rows, 3 of them for validation"):
        select_rows(SET, settings(validation_rows=3))
    with pytest.raises(ConfigError, match="expected a divisor of the images' 4 × 4 pixels"):
        select_rows(SET, settings(pool=3))
