"""A small convolutional network."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, check_images, from_linen


class CNN(nn.Module):
    """3×3 convolutions with ReLU and 2×2 mean pooling, one a width, then the mean over pixels and a linear head."""

    num_classes: int
    widths: Sequence[int] = (32, 64)
    batch_norm: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        self.convs = [nn.Conv(width, (3, 3), use_bias=not self.batch_norm, dtype=self.dtype) for width in self.widths]
        self.norms = [nn.BatchNorm(momentum=0.9, dtype=self.dtype) for _ in self.widths] if self.batch_norm else []
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, x, train: bool = False):
        check_images(x)
        if min(x.shape[1:3]) < 2 ** len(self.widths):
            raise ValueError(
                f"images of {x.shape[1]} × {x.shape[2]} pixels are too small for {len(self.widths)} poolings."
            )
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = self.norms[i](x, use_running_average=not train) if self.batch_norm else x
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        return x.mean((1, 2))

    def __call__(self, x, train: bool = False):
        return self.head(self.features(x, train))


def cnn(
    num_classes: int, widths: Sequence[int] = (32, 64), batch_norm: bool = True, dtype: Any = jnp.float32
) -> Classifier:
    """A small convolutional network on `[B, H, W, C]`, with or without BatchNorm."""
    return from_linen(CNN(num_classes, tuple(widths), batch_norm, dtype))
