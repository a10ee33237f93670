"""The text encoder against a few lines of numpy, its indifference to padding, and the published weights where they are here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from clujax.data.files import DamagedDataError
from clujax.errors import DataNotFoundError
from clujax.models.minilm import minilm
from clujax.models.text_encoder import embed, text_encoder

SIZES = {"vocabulary": 50, "width": 8, "depth": 2, "num_heads": 2, "hidden": 12, "longest": 6}
TOKENS = jnp.array([[5, 7, 9, 0, 0, 0], [3, 1, 2, 8, 4, 6]])


def network():
    encoder = text_encoder(3, **SIZES)
    params, stats = encoder.init(jax.random.key(0), TOKENS)
    assert stats == {}
    return encoder, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def by_hand(params, tokens):
    """One text through BERT's formulas in double precision."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(at, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * at["scale"] + at["bias"]

    x = norm(p["norm"], p["tokens"]["embedding"][tokens] + p["positions"][: len(tokens)] + p["kind"])
    for i in range(2):
        block = p[f"block_{i}"]
        part = {n: np.einsum("td,dhk->thk", x, block["attention"][n]["kernel"]) + block["attention"][n]["bias"]
                for n in ("query", "key", "value")}  # fmt: skip
        scores = np.einsum("thk,shk->hts", part["query"], part["key"]) / np.sqrt(4)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shk->thk", weights / weights.sum(-1, keepdims=True), part["value"])
        out = np.einsum("thk,hkd->td", mixed, block["attention"]["out"]["kernel"]) + block["attention"]["out"]["bias"]
        x = norm(block["norm_attention"], x + out)
        up = x @ block["up"]["kernel"] + block["up"]["bias"]
        x = norm(
            block["norm_output"],
            x + (up * 0.5 * (1 + erf(up / np.sqrt(2)))) @ block["down"]["kernel"] + block["down"]["bias"],
        )
    return x.mean(0)


def test_features_are_those_of_the_formulas_and_padding_changes_nothing():
    encoder, params = network()
    found = encoder.features(params, {}, TOKENS)
    np.testing.assert_allclose(found[0], by_hand(params, np.asarray(TOKENS[0, :3])), atol=2e-5)
    np.testing.assert_allclose(found[1], by_hand(params, np.asarray(TOKENS[1])), atol=2e-5)
    np.testing.assert_allclose(encoder.features(params, {}, TOKENS[:1, :3]), found[:1], atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(embed(encoder, params, TOKENS), axis=-1), 1.0, rtol=1e-5)


def test_bad_input():
    encoder, params = network()
    for tokens in (jnp.ones((2, 3)), jnp.ones(3, jnp.int32), jnp.ones((1, 7), jnp.int32)):
        with pytest.raises(ValueError, match=r"tokens|token numbers"):
            encoder.apply(params, {}, tokens)
    with pytest.raises(ValueError, match="num_heads"):
        text_encoder(2, **(SIZES | {"num_heads": 3}))


def test_weights_that_are_missing_or_damaged(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(DataNotFoundError):
        minilm(2, path=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedDataError, match="sha256"):
        minilm(2, path=tmp_path)


def test_published_weights_give_the_published_cosine():
    try:
        net = minilm(2)
    except DamagedDataError:
        raise
    except DataNotFoundError as error:
        pytest.skip(str(error))
    tokens = net.tokenize(["A man is eating food.", "A man is eating a piece of bread."], 16)
    first, second = embed(net.encoder, net.params, jnp.asarray(tokens))
    np.testing.assert_allclose(first @ second, 0.7553, atol=2e-4)
