"""What adapters start from: published weights, and the small networks that stand in for them and say so."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import data, lora, models
from clujax.data.files import DamagedDataError
from clujax.data.source import Source
from clujax.data.text import TextSet
from clujax.errors import ConfigError, DataNotFoundError
from clujax.lora import starts, tasks
from clujax.lora.experiment import run
from clujax.models.efficientnet_lite0 import efficientnet_lite0

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "lora"


def absent(*unused, **also_unused):
    raise DataNotFoundError("the weights were not found:")


def corpus(seed, first, second):
    """Sentences of one of two moods, told by their first word, with filling words."""
    draw = np.random.default_rng(seed)
    filling = ["the", "film", "was", "seen", "by", "us", "and", "it"]

    def side(rows):
        labels = draw.integers(0, 2, rows).astype(np.int32)
        texts = [" ".join([(first, second)[y], *draw.choice(filling, 4)]) for y in labels]
        return texts, labels

    index = (np.arange(120), np.arange(40))
    return TextSet(side(120), side(40), ("negative", "positive"), Source("test", "made", "", "", 160), index)


def text_config():
    config = runpy.run_path(str(CONFIGS / "movies.py"))["get_config"]()
    config.seeds, config.compare = (0,), ("lora_r8", "flat_r8_more")
    config.data.train_rows, config.data.test_rows, config.data.length, config.data.others = 60, 30, 8, ("tweets",)
    config.instead.update({"vocabulary": 40, "width": 16, "num_heads": 2, "depth": 1, "hidden": 16})
    config.pretrain.epochs, config.adapt.epochs, config.adapt.learning_rate = 2.0, 4.0, 5e-3
    config.measure.points, config.measure.draws, config.measure.taus = 3, 2, (0.1,)
    return config


def test_texts_without_minilm_run_on_a_small_encoder_and_say_so(tmp_path, monkeypatch):
    made = {"movie_snippets": corpus(0, "awful", "lovely"), "tweets": corpus(1, "lovely", "awful")}
    monkeypatch.setattr(starts, "minilm", absent)
    monkeypatch.setattr(data.text, "load_text", lambda name, path=None: made[name])
    config = text_config()
    with pytest.warns(UserWarning, match="pretrained on the spot"):
        record = run(config, tmp_path / "out")["lora"]
    assert "240 texts, as MiniLM was not found" in record["pretrained"]
    assert record["tests"] == ["test", "tweets"]
    for each in record["methods"]:
        assert each["values"]["test/accuracy"] > 90
        assert each["values"]["tweets/accuracy"] < 20  # the words there mean the opposite


def test_weights_that_were_named_or_are_damaged_are_not_replaced(monkeypatch):
    def damaged(*unused, **also_unused):
        raise DamagedDataError("model.safetensors has another sha256")

    for name, start, more in (
        ("minilm", starts.text_start, lambda: ["a b"]),
        ("efficientnet_lite0", starts.photo_start, {}),
    ):
        file = "movies.py" if name == "minilm" else "cifar10.py"
        config = runpy.run_path(str(CONFIGS / file))["get_config"]()
        monkeypatch.setattr(starts, name, damaged)
        with pytest.raises(DamagedDataError):
            start(config, 2, more)
        monkeypatch.setattr(starts, name, absent)
        config.model.path = "somewhere"
        with pytest.raises(DataNotFoundError):
            start(config, 2, more)


def test_words_have_numbers_and_what_is_unknown_is_one():
    tokenize = starts.word_tokenizer(["good good film", "good plot!", "a film isn't bad"], 5)
    rows = tokenize(["good film", "plutonium", "", "good good good good good"], 4)
    assert rows.dtype == np.int32
    assert rows[0, 0] == rows[3, 0] > 1
    assert rows[0, 0] != rows[0, 1] > 1
    np.testing.assert_array_equal(rows[0, 2:], 0)
    np.testing.assert_array_equal(rows[1:3], [[1, 0, 0, 0]] * 2)
    texts = ["good good film", "good plot!", "a film isn't bad"]
    assert set(tokenize(texts, 4).ravel().tolist()) == {0, 1, 2, 3, 4}


def test_reading_words_brings_words_of_the_same_texts_together():
    """Words 2 to 4 come together and 5 to 7 do: features of the one kind lie nearer to each other than to the other's."""
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 2, 200)
    tokens = np.stack([2 + 3 * kind + draw.permutation(3) for kind in kinds]).astype(np.int32)
    network = models.text_encoder(2, vocabulary=8, width=8, depth=1, num_heads=2, hidden=8, longest=3)
    settings = ConfigDict({"epochs": 20.0, "batch_size": 20, "learning_rate": 5e-3})
    params = starts.reading_words(network, tokens, settings, jax.random.key(0))
    one, again, other = models.embed(network, params, jnp.array([[2, 3, 4], [4, 2, 3], [5, 6, 7]]))
    assert one @ again > one @ other + 0.5
    # Words without a number of their own are not to be told: nothing is learned of texts of them.
    still = starts.reading_words(network, np.ones((200, 3), np.int32), settings, jax.random.key(0))
    first, _ = network.init(jax.random.key(0), jnp.ones((1, 3), jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, still, first)


def test_a_start_is_pretrained_once_for_all_seeds_and_shows_how_far_it_is(monkeypatch):
    monkeypatch.setattr(starts, "efficientnet_lite0", absent)
    with pytest.warns(UserWarning, match="on the spot"):
        subject = tasks.photos(photo_config())
    with Progress(disable=True) as progress:
        ends = []
        monkeypatch.setattr(progress, "advance", lambda bar: ends.append(bar))
        first = subject.of(0, progress)
        steps = len(ends)
        second = subject.of(1, progress)
    assert steps == len(ends) == round(20 * 400 / 64)
    kernel = lambda task: task.base["layers_0"]["kernel"]
    np.testing.assert_array_equal(kernel(first), kernel(second))
    assert not np.array_equal(first.train["x"], second.train["x"])


def photo_config():
    config = runpy.run_path(str(CONFIGS / "cifar10.py"))["get_config"]()
    config.seeds, config.compare = (0,), ("lora_r8", "flat_r8_more")
    config.data.update({"name": "digits", "pretrain_rows": 400, "train_rows": 100, "test_rows": 50, "corrupt": (0.1,)})
    config.instead = ConfigDict({"name": "mlp", "widths": (16,)})
    config.adapt.epochs, config.pretrain.epochs = 2.0, 20.0
    config.measure.points, config.measure.draws, config.measure.taus = 3, 2, (0.1,)
    return config


def test_photos_without_efficientnet_run_on_a_small_network_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "efficientnet_lite0", absent)
    with pytest.warns(UserWarning, match="pretrained on the spot"):
        record = run(photo_config(), tmp_path / "out")["lora"]
    assert record["pretrained"].startswith("mlp pretrained on the spot on 400 pictures")
    assert record["tests"] == ["test", "noise 0.1"]
    assert all(each["values"]["test/accuracy"] > 50 for each in record["methods"])


def test_a_seed_does_not_adapt_to_the_rows_that_the_small_network_has_seen(monkeypatch):
    monkeypatch.setattr(starts, "efficientnet_lite0", absent)
    seen = {}
    monkeypatch.setattr(
        tasks,
        "photo_start",
        lambda config, classes, train: seen.update(train) or starts.photo_start(config, classes, train),
    )
    config = photo_config()
    config.data.label_noise = 0.4
    with pytest.warns(UserWarning, match="on the spot"):
        task = tasks.photos(config).of(0)
    raw = data.load("digits").train["x"] / np.float32(16)
    place = {row.tobytes(): i for i, row in enumerate(raw.astype(np.float32))}
    adapted = {place[row.tobytes()] for row in task.train["x"]}
    assert len(task.train["y"]) == 100
    labels = data.load("digits").train["y"]
    right = [labels[place[row.tobytes()]] == y for row, y in zip(task.train["x"], task.train["y"])]
    assert 60 <= sum(right) <= 80  # of 40 labels drawn anew a tenth is right again
    assert not adapted & {place[row.tobytes()] for row in seen["x"]}
    config.data.train_rows = 1400
    with pytest.raises(ConfigError, match="train_rows"):
        tasks.photos(config)


def test_pictures_are_enlarged_to_three_channels_of_pixels():
    grey = jnp.full((2, 8, 8), 0.5)
    np.testing.assert_allclose(starts.enlarged(grey, 16), np.full((2, 16, 16, 3), 127.5), rtol=1e-6)
    colours = jax.random.uniform(jax.random.key(0), (1, 4, 4, 3))
    np.testing.assert_allclose(starts.enlarged(colours, 4), 255 * colours, rtol=1e-5)


def test_efficientnet_is_the_start_where_it_is_found():
    try:
        efficientnet_lite0()
    except DataNotFoundError as error:
        pytest.skip(str(error))
    config = photo_config()
    config.model.size = 64
    start = starts.photo_start(config, 10, {})
    assert "EfficientNet-lite0" in start.told
    params = start.params(None)
    x = jnp.asarray(data.load("digits").test["x"][:2] / 16.0)
    logits, stats = start.network.apply(params, {}, x, train=True, key=jax.random.key(0))
    assert stats == {}
    np.testing.assert_array_equal(logits, 0)  # a new head
    rules = [lora.LoraRule(pattern, 8) for pattern, _ in config.adapt.patterns]
    names = [entry.name for entry in lora.build_spec(params, rules, allow_overlap=True)]
    assert len(names) == 34
    assert not any("depthwise" in name for name in names)
