"""BERT-type text encoder: tokens, post-norm blocks, mean over the tokens that are there."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from clujax.models.classifier import Classifier, from_linen
from clujax.models.layout import constrain

PADDING = 0


class TextBlock(nn.Module):
    """Self-attention among the tokens that are there, then an exact-GELU perceptron; a norm after each."""

    num_heads: int
    hidden: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, train: bool):
        norm = lambda name: nn.LayerNorm(epsilon=1e-12, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, name="attention")(
            x, mask=mask[:, None, None, :]
        )
        x = norm("norm_attention")(x + drop(y))
        y = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="up")(x), approximate=False)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(constrain(y, "rows", "tokens", "hidden"))
        return constrain(norm("norm_output")(x + drop(y)), "rows", "tokens", "width")


class TextEncoder(nn.Module):
    """Token numbers [B, T] with 0 for padding to a mean-pooled feature [B, width] and, with a head, logits."""

    num_classes: int
    vocabulary: int = 30522
    width: int = 384
    depth: int = 6
    num_heads: int = 12
    hidden: int = 1536
    longest: int = 512
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self):
        start = nn.initializers.normal(0.02)
        self.tokens = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, embedding_init=start)
        self.positions = self.param("positions", start, (self.longest, self.width))
        self.kind = self.param("kind", start, (self.width,))
        self.norm = nn.LayerNorm(epsilon=1e-12, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        block = nn.remat(TextBlock, static_argnums=(3,)) if self.remat else TextBlock
        self.block = [block(self.num_heads, self.hidden, self.dropout, self.dtype) for _ in range(self.depth)]
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, tokens, train: bool = False):
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"inputs are {tokens.dtype}{list(tokens.shape)}; expected token numbers [B, T].")
        if tokens.shape[1] > self.longest:
            raise ValueError(f"texts have {tokens.shape[1]} tokens; this encoder reads at most {self.longest}.")
        mask = tokens != PADDING
        x = self.tokens(tokens) + (self.positions[: tokens.shape[1]] + self.kind).astype(self.dtype)
        x = self.drop(self.norm(x), deterministic=not train)
        x = constrain(x, "rows", "tokens", "width")
        for block in self.block:
            x = block(x, mask, train)
        return mean_pooled(x, mask)

    def __call__(self, tokens, train: bool = False):
        return self.head(self.features(tokens, train))


def mean_pooled(x: Float[Array, "B T D"], mask: Array) -> Float[Array, "B D"]:
    """Mean over the tokens that are there; 0 for a text without any."""
    weight = mask.astype(jnp.float32)[..., None]
    return jnp.sum(x.astype(jnp.float32) * weight, 1) / jnp.maximum(jnp.sum(weight, 1), 1.0)


def text_encoder(num_classes: int, **sizes: Any) -> Classifier:
    """A text classifier on token numbers `[B, T]` (int, 0 is padding), by default with the sizes of MiniLM-L6.

    The one array is all there is to a row, since the mask is where it is not 0: it passes through batches, requests and
    training steps as images do. Features are the mean over the tokens that are there, of the last block; of a text without
    any token they are 0. Every token is of BERT's kind 0, whose embedding is the parameter `kind`.

    Args:
      num_classes: outputs of the head on the mean-pooled feature.
      **sizes: fields of `TextEncoder`: vocabulary, width, depth, num_heads, hidden, longest, dropout, dtype, remat.

    Raises:
      ValueError: heads that do not divide the width.
    """
    module = TextEncoder(num_classes, **sizes)
    if module.width % module.num_heads:
        raise ValueError(f"num_heads is {module.num_heads}; expected a divisor of width {module.width}.")
    return from_linen(module)


def embed(encoder: Classifier, params: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B D"]:
    """Sentence embeddings of unit length: their inner product is the cosine similarity."""
    features = encoder.features(params, {}, tokens)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
