"""What adapters are trained for: a pretrained network, few rows of a new task, clean and shifted test rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict
from rich.progress import Progress

from clujax import data, models
from clujax.adaptation.pretraining import Columns, pretrained
from clujax.adaptation.settings import build_classifier
from clujax.errors import ConfigError
from clujax.lora.starts import photo_start, text_start

PROBED = "head fitted on frozen features"


class Task(NamedTuple):
    """One seed's task.

    Attributes:
      classifier: of token numbers or pixels.
      base: pretrained parameters.
      train: columns x and y, labels as the learner gets them.
      tests: columns by name; "test" is of the training distribution, the others are shifted.
    """

    classifier: models.Classifier
    base: PyTree
    train: Columns
    tests: Mapping[str, Columns]


class Subject(NamedTuple):
    """What a run is about, before any seed is drawn: its tasks by seed, and the record of its data."""

    of: Callable[..., Task]  # (seed, progress=None)
    sources: tuple[dict, ...]
    pretrained: str  # what the base is, for the report
    num_train: int
    tests: tuple[str, ...]


def images(config: ConfigDict) -> Subject:
    """Labelled pictures: pretrained upright on the spot, adapted to pictures rolled by some pixels with some wrong labels.

    Test rows: rolled, and rolled with noise of each deviation of `data.corrupt` added to pixels in [0, 1].
    """
    settings = config.data
    found, unit = _loaded(settings)
    first, rows = settings.pretrain_rows, settings.train_rows
    total = len(found.train["y"])
    _check_rows(settings, total, first)
    moved = lambda x: np.roll(unit(x), tuple(settings.roll), axis=(1, 2))
    network = build_classifier(config, {"x": unit(found.train["x"])}, len(found.classes))
    tests = _corrupted({"x": moved(found.test["x"]), "y": np.asarray(found.test["y"])}, settings.corrupt)

    def of(seed: int, progress: Progress | None = None) -> Task:
        draw = np.random.default_rng(seed)
        order = draw.permutation(total)
        upright, few = order[:first], order[first : first + rows]
        columns = {"x": unit(found.train["x"][upright]), "y": np.asarray(found.train["y"])[upright]}
        base = pretrained(network, columns, config.pretrain, jax.random.key(seed), progress)
        labels = _mislabelled(np.asarray(found.train["y"])[few], settings.label_noise, len(found.classes), draw)
        return Task(network, base, {"x": moved(found.train["x"][few]), "y": labels}, tests)

    told = f"{config.model.name} pretrained on {first:,} upright pictures"
    return Subject(of, (found.source._asdict(),), told, rows, tuple(tests))


def photos(config: ConfigDict) -> Subject:
    """Few labelled pictures for a network pretrained elsewhere, whose new head is first fitted on frozen features.

    Test rows: the first `data.test_rows`, and the same with noise of each deviation of `data.corrupt` added.
    """
    settings = config.data
    found, unit = _loaded(settings)
    first, rows = settings.pretrain_rows, settings.train_rows
    total, labels = len(found.train["y"]), np.asarray(found.train["y"])
    _check_rows(settings, total, first)
    test = {"x": unit(found.test["x"][: settings.test_rows]), "y": np.asarray(found.test["y"])[: settings.test_rows]}
    tests = _corrupted(test, settings.corrupt)
    # The last rows are the small network's, where it must be pretrained: a seed never adapts to them.
    before = {"x": unit(found.train["x"][total - first :]), "y": labels[total - first :]}
    start = photo_start(config, len(found.classes), before)

    def of(seed: int, progress: Progress | None = None) -> Task:
        draw = np.random.default_rng(seed)
        few = draw.permutation(total - first)[:rows]
        wrong = _mislabelled(labels[few], settings.label_noise, len(found.classes), draw)
        train = {"x": unit(found.train["x"][few]), "y": wrong}
        return Task(start.network, with_probe(start.network, start.params(progress), train), train, tests)

    return Subject(of, (found.source._asdict(),), f"{start.told}, {PROBED}", rows, tuple(tests))


def _loaded(settings: ConfigDict) -> tuple[data.Dataset, Callable[[Any], np.ndarray]]:
    """A picture set, and what turns its pixels into float32 in [0, 1]."""
    found = data.load(settings.name, path=settings.path)
    largest = 255.0 if np.max(found.train["x"][:1000]) > 16 else 16.0
    return found, lambda x: np.asarray(x, np.float32) / largest


def _check_rows(settings: ConfigDict, total: int, first: int) -> None:
    rows, wrong = settings.train_rows, settings.label_noise
    if not 0 < first < total or not 0 < rows <= total - first:
        raise ConfigError(
            f"data.pretrain_rows + data.train_rows is {first} + {rows}; {settings.name} has {total} rows."
        )
    if not 0 <= wrong < 1:
        raise ConfigError(f"data.label_noise is {wrong}; expected a share in [0, 1).")


def _mislabelled(labels: np.ndarray, share: float, classes: int, draw: np.random.Generator) -> np.ndarray:
    """Labels of which a share is drawn anew."""
    labels = labels.copy()
    chosen = draw.permutation(len(labels))[: round(share * len(labels))]
    labels[chosen] = draw.integers(0, classes, len(chosen))
    return labels


def _corrupted(test: Columns, spreads: Sequence[float]) -> dict[str, Columns]:
    """Test rows as they are, and with normal noise of each deviation in the pictures."""
    tests = {"test": test}
    for i, spread in enumerate(spreads):
        noisy = np.random.default_rng(i).normal(0, spread, test["x"].shape).astype(np.float32)
        tests[f"noise {spread:g}"] = {**test, "x": np.clip(test["x"] + noisy, 0, 1)}
    return tests


def texts(config: ConfigDict) -> Subject:
    """Labelled sentences for a pretrained encoder, whose new head is first fitted on frozen features.

    Test rows: of the corpus, and of the corpora `data.others` with the same classes.
    """
    from clujax.data.text import load_text

    settings = config.data
    corpus = load_text(settings.name, path=settings.path)
    others = {name: load_text(name, path=settings.path) for name in settings.others}
    for name, other in others.items():
        if other.classes != corpus.classes:
            raise ConfigError(f"data.others names {name} with classes {other.classes}; expected {corpus.classes}.")
    total, rows = len(corpus.train[0]), settings.train_rows
    if not 0 < rows <= total:
        raise ConfigError(f"data.train_rows is {rows}; {settings.name} has {total} training rows.")
    words = lambda: [text for each in (corpus, *others.values()) for text in each.train[0]]
    start = text_start(config, len(corpus.classes), words)
    columns = lambda side, limit=None: {"x": start.tokenize(side[0][:limit], settings.length), "y": side[1][:limit]}
    tests = {"test": columns(corpus.test, settings.test_rows)}
    tests |= {name: columns(other.test, settings.test_rows) for name, other in others.items()}

    def of(seed: int, progress: Progress | None = None) -> Task:
        chosen = np.random.default_rng(seed).permutation(total)[:rows]
        train = columns(([corpus.train[0][i] for i in chosen], corpus.train[1][chosen]))
        return Task(start.network, with_probe(start.network, start.params(progress), train), train, tests)

    sources = tuple(each.source._asdict() for each in (corpus, *others.values()))
    return Subject(of, sources, f"{start.told}, {PROBED}", rows, tuple(tests))


def with_probe(network: models.Classifier, base: PyTree, train: Columns) -> PyTree:
    """The base with its head fitted to the training rows on frozen features: logistic regression with ½‖w‖²/n, by L-BFGS.

    Source: Kumar et al. 2022: fine-tuning from a random head distorts the features.
    """
    read = jax.jit(lambda params, x: network.features(params, {}, x))
    rows = len(train["y"])
    features = jnp.concatenate([read(base, jnp.asarray(train["x"][i : i + 64])) for i in range(0, rows, 64)])
    labels = jnp.asarray(train["y"])

    def loss(head: PyTree) -> Array:
        logits = features @ head["kernel"] + head["bias"]
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean() + jnp.sum(jnp.square(head["kernel"])) / (2 * rows)

    tx, head = optax.lbfgs(), base["head"]
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple, _: Any) -> tuple:
        head, state = carry
        value, slope = value_and_grad(head, state=state)
        updates, state = tx.update(slope, state, head, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(head, updates), state), value

    (head, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 100))((head, tx.init(head)))
    return base | {"head": head}
