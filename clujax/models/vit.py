"""Vision transformer: patches, pre-norm blocks, mean over tokens."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, check_images, from_linen
from clujax.models.layout import constrain


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and a GELU perceptron of four times the width."""

    num_heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = constrain(nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype)(y)), "rows", "tokens", "hidden")
        y = nn.Dense(x.shape[-1], dtype=self.dtype)(y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        return constrain(x, "rows", "tokens", "width")


class ViT(nn.Module):
    """Patch embedding with learned positions, encoder blocks, a final norm, the mean over tokens, a linear head."""

    num_classes: int
    patch: int = 4
    width: int = 64
    depth: int = 4
    num_heads: int = 4
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    tokens: int = 64

    def setup(self):
        self.positions = self.param("positions", nn.initializers.normal(0.02), (self.tokens, self.width))
        self.embed = nn.Conv(self.width, (self.patch, self.patch), (self.patch, self.patch), dtype=self.dtype)
        block = nn.remat(EncoderBlock, static_argnums=(2,)) if self.remat else EncoderBlock
        self.blocks = [block(self.num_heads, self.dropout, self.dtype) for _ in range(self.depth)]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, x, train: bool = False):
        check_images(x)
        x = self.embed(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if x.shape[1] != self.tokens:
            raise ValueError(f"inputs make {x.shape[1]} patches; this vit was made for {self.tokens} (image_size).")
        x = constrain(x + self.positions.astype(x.dtype), "rows", "tokens", "width")
        for block in self.blocks:
            x = block(x, train)
        return self.norm(x).mean(1)

    def __call__(self, x, train: bool = False):
        return self.head(self.features(x, train))


def vit(
    num_classes: int,
    image_size: int = 32,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    num_heads: int = 4,
    dropout: float = 0.0,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Classifier:
    """A vision transformer on square images `[B, image_size, image_size, C]`.

    ViT-B/16 is image_size 224, patch 16, width 768, depth 12, 12 heads. `dtype` is that of the computation; parameters are
    float32. `remat` keeps one activation a block and computes the rest again on the way back: a third more arithmetic.

    Raises:
      ValueError: the patch does not divide the image, or the heads the width.
    """
    if image_size % patch:
        raise ValueError(f"patch is {patch}; expected a divisor of image_size {image_size}.")
    if width % num_heads:
        raise ValueError(f"num_heads is {num_heads}; expected a divisor of width {width}.")
    tokens = (image_size // patch) ** 2
    return from_linen(ViT(num_classes, patch, width, depth, num_heads, dropout, dtype, remat, tokens))
