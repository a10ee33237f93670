"""What adapters start from: published weights where they are found, else a small network pretrained on the spot."""

import collections
import functools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import models
from clujax.adaptation.pretraining import Columns, descended, pretrained
from clujax.adaptation.settings import build_classifier
from clujax.data.files import DamagedDataError
from clujax.errors import DataNotFoundError
from clujax.models.efficientnet_lite0 import efficientnet_lite0
from clujax.models.minilm import minilm
from clujax.models.text_encoder import PADDING, text_encoder

UNKNOWN = 1


class Start(NamedTuple):
    """A pretrained network.

    Attributes:
      network: without statistics of its own.
      params: makes its parameters, pretraining where they must be, with a bar; once for all calls.
      told: what it is, for the report.
      tokenize: of a text network: `tokenize(texts, length) -> int32 [n, length]`, 0 for padding.
    """

    network: models.Classifier
    params: Callable[[Progress | None], PyTree]
    told: str
    tokenize: Callable[[Sequence[str], int], np.ndarray] | None = None


def text_start(config: ConfigDict, num_classes: int, texts: Callable[[], Sequence[str]]) -> Start:
    """MiniLM; where it is not found, a small encoder that learns from `texts`, without labels.

    Args:
      config: `model.path`, `model.dropout`; for the other case `instead` (sizes of the small one), `pretrain`,
        `data.length`.
      num_classes: of the head, which starts at 0.
      texts: to pretrain on.

    Raises:
      DataNotFoundError: `model.path` was given and does not hold it, or the file found is another than the published one.

    Warns:
      UserWarning: it was not found.
    """
    settings = config.model
    try:
        net = minilm(num_classes, path=settings.path, dropout=settings.dropout)
    except DataNotFoundError as missing:
        _only_if_absent(missing, settings.path)
    else:
        base = functools.cache(lambda progress: jax.tree.map(jnp.asarray, net.params))
        return Start(net.encoder, base, f"all-MiniLM-L6-v2 from {net.source}", net.tokenize)
    found, length = list(texts()), config.data.length
    sizes = dict(config.instead)
    tokenize = word_tokenizer(found, sizes["vocabulary"])
    network = text_encoder(num_classes, longest=length, dropout=settings.dropout, **sizes)

    @functools.cache
    def base(progress: Progress | None) -> PyTree:
        return reading_words(network, tokenize(found, length), config.pretrain, jax.random.key(0), progress)

    told = f"a small encoder pretrained on the spot on the words of {len(found):,} texts, as MiniLM was not found"
    return Start(network, base, told, tokenize)


def photo_start(config: ConfigDict, num_classes: int, train: Columns) -> Start:
    """EfficientNet-lite0 with the averages of its BatchNorm layers held; where it is not found, a small network.

    Args:
      config: `model.path`, `model.size` (side that pictures are resized to); `instead` (a model) and `pretrain` for the other
        case.
      num_classes: of the head, which starts at 0.
      train: columns x in [0, 1] and y to pretrain the small one on.

    Raises:
      DataNotFoundError: `model.path` was given and does not hold it, or the file found is another than the published one.

    Warns:
      UserWarning: it was not found.
    """
    settings = config.model
    try:
        net = efficientnet_lite0(num_classes, path=settings.path)
    except DataNotFoundError as missing:
        _only_if_absent(missing, settings.path)
    else:
        network = models.with_inputs(models.frozen(net.classifier, net.stats), lambda x: enlarged(x, settings.size))
        base = functools.cache(lambda progress: jax.tree.map(jnp.asarray, net.params))
        return Start(network, base, f"EfficientNet-lite0 from {net.source}, pictures of side {settings.size}")
    small = config.copy_and_resolve_references()
    small.model = config.instead
    network = build_classifier(small, train, num_classes)
    base = functools.cache(lambda progress: pretrained(network, train, config.pretrain, jax.random.key(0), progress))
    rows = f"{len(train['y']):,} pictures"
    return Start(
        network, base, f"{config.instead.name} pretrained on the spot on {rows}, as EfficientNet was not found"
    )


def enlarged(x: Num[Array | np.ndarray, "B H W *C"], size: int) -> Float[Array, "B S S 3"]:
    """Pictures in [0, 1] as pixels from 0 to 255 of three channels and another side."""
    x = jnp.asarray(x, jnp.float32)
    x = x[..., None] if x.ndim == 3 else x
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    return 255 * jax.image.resize(x, (len(x), size, size, 3), "linear")


def word_tokenizer(texts: Sequence[str], vocabulary: int) -> Callable[[Sequence[str], int], np.ndarray]:
    """Numbers for the most frequent words of some texts: 0 is padding, 1 any other word."""
    words = lambda text: re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[!?]", text.lower())
    counts = collections.Counter(word for text in texts for word in words(text))
    number = {word: i for i, (word, _) in enumerate(counts.most_common(vocabulary - 2), UNKNOWN + 1)}

    def tokenize(texts: Sequence[str], length: int) -> Int[np.ndarray, "B T"]:
        rows = np.full((len(texts), length), PADDING, np.int32)
        for row, text in zip(rows, texts):
            found = [number.get(word, UNKNOWN) for word in words(text)][:length] or [UNKNOWN]
            row[: len(found)] = found
        return rows

    return tokenize


def reading_words(
    network: models.Classifier,
    tokens: Int[np.ndarray, "N T"],
    settings: ConfigDict,
    key: PRNGKeyArray,
    progress: Progress | None = None,
) -> PyTree:
    """A text encoder whose features of half of a text's words tell all of its words, by products with their embeddings."""

    def loss(params: PyTree, batch: Columns, key: PRNGKeyArray) -> tuple[Array, dict]:
        x = batch["x"]
        kept = jax.random.bernoulli(key, 0.5, x.shape).at[:, 0].set(True)  # a text of no words has no mean
        features = network.features(params, {}, jnp.where(kept, x, PADDING))
        scores = jax.nn.log_softmax(features @ params["tokens"]["embedding"].T)
        known = x > UNKNOWN
        return -jnp.sum(known * jnp.take_along_axis(scores, x, 1)) / jnp.maximum(jnp.sum(known), 1), {}

    params, _ = network.init(key, jnp.asarray(tokens[:1]))
    return descended(loss, params, {"x": tokens}, settings, key, progress)


def _only_if_absent(missing: DataNotFoundError, path: Any) -> None:
    """Go on without published weights only where nobody named a place for them and none is damaged."""
    if path is not None or isinstance(missing, DamagedDataError):
        raise missing
    warnings.warn(f"{missing}\nGoing on with a small network pretrained on the spot.", stacklevel=3)
