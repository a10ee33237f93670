"""Data: found and checked by sha256, split by request, cut into batches that depend on the step alone."""

from clujax.data.augment import crop_flip, standardize
from clujax.data.batches import gather, padded, resident
from clujax.data.packages import emoji_names
from clujax.data.pipeline import feed
from clujax.data.prepared import PreparedRows, prepare
from clujax.data.published_splits import CIFAR100_COARSE, PUBLISHED, kit_halves
from clujax.data.resolve import KNOWN, load
from clujax.data.rows import Rows, on_disk, spread
from clujax.data.source import Dataset, Source, take_rows
from clujax.data.split import SCENARIOS, Split, check_split, finish_split, make_split
from clujax.data.text import TextSet, load_text, tokenized

__all__ = [
    "CIFAR100_COARSE",
    "KNOWN",
    "PUBLISHED",
    "SCENARIOS",
    "Dataset",
    "PreparedRows",
    "Rows",
    "Source",
    "Split",
    "TextSet",
    "check_split",
    "crop_flip",
    "emoji_names",
    "feed",
    "finish_split",
    "kit_halves",
    "load",
    "load_text",
    "make_split",
    "on_disk",
    "padded",
    "prepare",
    "resident",
    "standardize",
    "gather",
    "spread",
    "take_rows",
    "tokenized",
]
