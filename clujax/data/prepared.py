"""Data sets prepared by tensorflow-datasets, read and written without TensorFlow."""

import contextlib
import json
import pathlib
from typing import Any

import numpy as np

from clujax.data.files import DamagedDataError, sha256_arrays
from clujax.errors import DataNotFoundError


def find_prepared(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The newest prepared version of a set under a data directory.

    Raises:
      DataNotFoundError: there is none, or it is in a format that needs TensorFlow.
    """
    infos = list(folder.glob(f"{name}/**/dataset_info.json"))
    if not infos:
        raise DataNotFoundError(f"no prepared {name} (no {name}/*/dataset_info.json)")
    newest = max((info.parent for info in infos), key=_version)
    check_format(newest)
    return newest


def check_format(folder: pathlib.Path) -> None:
    """Refuse a prepared set in a format that needs TensorFlow.

    Raises:
      DataNotFoundError: naming the folder, its format and the fix.
    """
    try:
        kind = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedDataError(f"{folder / 'dataset_info.json'} is damaged ({error}); prepare it again") from error
    if kind not in ("array_record", "parquet"):
        raise DataNotFoundError(
            f"{folder} is prepared as {kind}, which only TensorFlow reads;"
            ' prepare it again with file_format="array_record"'
        )


def _version(folder):
    """Sort key: versions by number, 1.10.0 after 1.9.0."""
    parts = folder.name.split(".")
    return [int(part) for part in parts] if all(part.isdigit() for part in parts) else [-1]


def open_prepared(folder: pathlib.Path):
    """The tfds builder of a prepared image classification set, and the names of its splits for training and for test.

    Raises:
      DataNotFoundError: tensorflow-datasets is not installed, or the set is no image classification that it can read.
    """
    check_format(folder)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataNotFoundError(
            f"tensorflow-datasets cannot be imported ({error}); pip install 'clujax[data]'"
        ) from error
    with damaged_if_unreadable(folder):
        builder = tfds.builder_from_directory(str(folder))
        features, splits = builder.info.features, builder.info.splits
        missing = {"image", "label"} - set(features)
    if missing:
        raise DataNotFoundError(f"{folder} has the features {sorted(features)}; lacking {sorted(missing)}")
    test = next((name for name in ("test", "validation") if name in splits), None)
    if "train" not in splits or test is None:
        raise DataNotFoundError(f"{folder} has the splits {sorted(splits)}; expected train and test (or validation)")
    return builder, ("train", test)


class PreparedRows:
    """Rows of a split of a prepared set, read when asked for: a source for `feed` of sets that fill no memory.

    Args:
      folder: the prepared set, `.../name/version`.
      split: "train", "test" or another that it has.

    Raises:
      DataNotFoundError: as `load` of this path; or there is no such split.
    """

    def __init__(self, folder: str | pathlib.Path, split: str = "train"):
        self.folder = pathlib.Path(folder)
        builder, _ = open_prepared(self.folder)
        if split not in builder.info.splits:
            raise DataNotFoundError(f"{folder} has the splits {sorted(builder.info.splits)}; lacking {split!r}")
        with damaged_if_unreadable(self.folder):
            self.source = builder.as_data_source(split=split)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`x`, `y` and `index`: the example's own feature of that name, which outlives preparation, or else `row`."""
        with damaged_if_unreadable(self.folder):
            example = self.source[row]
            return {
                "x": example["image"],
                "y": np.int32(example["label"]),
                "index": np.int64(example.get("index", row)),
            }


def read_prepared(folder: pathlib.Path):
    """All rows of the splits train and test of a prepared image classification set.

    An `index` feature, when there is one, is the raw row number; else the prepared order is.

    Raises:
      DataNotFoundError: tensorflow-datasets is not installed, or the set is no image classification that it can read.
    """
    builder, splits = open_prepared(folder)
    parts, rows = [], []
    for split in splits:
        source = PreparedRows(folder, split)
        if not len(source):
            raise DataNotFoundError(f"{folder} has no rows in {split}")
        examples = [source[i] for i in range(len(source))]
        with damaged_if_unreadable(folder):
            x, y, index = (np.stack([example[name] for example in examples]) for name in ("x", "y", "index"))
        parts += [x, y]
        rows.append(index)
    label = builder.info.features["label"]
    names = getattr(label, "names", None) or map(str, range(getattr(label, "num_classes", None) or 0))
    digest = sha256_arrays(*parts)
    return tuple(parts), tuple(rows), tuple(names), (builder.name, str(builder.version), digest)


@contextlib.contextmanager
def damaged_if_unreadable(folder: pathlib.Path):
    """Whatever the readers of records throw at a broken file (RuntimeError, TypeError, …) says which set is broken."""
    try:
        yield
    except Exception as error:
        raise DamagedDataError(
            f"{folder} cannot be read ({type(error).__name__}: {error}); prepare it again"
        ) from error


def prepare(name: str, data_dir: str | pathlib.Path, parts: dict[str, tuple], classes: tuple[str, ...]) -> pathlib.Path:
    """Write arrays as a prepared set that `tfds.builder_from_directory` reads without TensorFlow.

    Args:
      name: of the set, lower case with underscores.
      data_dir: where prepared sets live.
      parts: split name -> (images uint8 [N, H, W, C], labels [N]).
      classes: names of the labels.

    Returns:
      The prepared folder. Every example carries an `index` feature, its row in the arrays, since tfds shuffles.

    Raises:
      ValueError: a part has not as many labels as images.
      FileExistsError: the set is there already; tfds would keep the old rows without a word.
    """
    import tensorflow_datasets as tfds

    for split, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise ValueError(f"{split} has {len(images)} images and {len(labels)} labels.")
    shape = next(iter(parts.values()))[0].shape[1:]

    with tfds.core.registered.skip_registration():  # a class of this name may be made once only otherwise

        class FromArrays(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
                        "label": tfds.features.ClassLabel(names=list(classes)),
                        "index": np.int64,
                    }
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(*arrays) for split, arrays in parts.items()}

            def _generate_examples(self, images, labels):
                for i in range(len(labels)):
                    yield i, {"image": images[i], "label": int(labels[i]), "index": i}

    FromArrays.name = name
    builder = FromArrays(data_dir=str(data_dir), file_format="array_record")
    if (pathlib.Path(builder.data_dir) / "dataset_info.json").exists():
        raise FileExistsError(f"{builder.data_dir} is prepared already; remove it to prepare it anew.")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)
