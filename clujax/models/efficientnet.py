"""EfficientNet-lite: inverted residual blocks of cheap depthwise convolutions, ReLU6, no squeeze-and-excitation."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, check_images, from_linen
from clujax.models.layout import constrain


class Stage(NamedTuple):
    """Blocks of one shape: how many, side of the depthwise kernel, stride of the first, expansion, output channels."""

    blocks: int
    size: int
    stride: int
    expand: int
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """A 1×1 convolution to more channels, a depthwise one, a 1×1 back; added to the input where the shape is kept."""

    size: int
    stride: int
    expand: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        norm = lambda name: _norm(self.dtype, name=name, use_running_average=not train)
        wide = self.expand * x.shape[-1]
        y = x
        if self.expand != 1:
            y = nn.relu6(norm("expand_norm")(_conv(wide, 1, dtype=self.dtype, name="expand")(y)))
        depthwise = _conv(wide, self.size, self.stride, feature_group_count=wide, dtype=self.dtype, name="depthwise")
        y = nn.relu6(norm("depthwise_norm")(depthwise(y)))
        y = norm("project_norm")(_conv(self.channels, 1, dtype=self.dtype, name="project")(y))
        if self.stride == 1 and x.shape[-1] == self.channels:
            y = x + y
        return constrain(y, "rows", "height", "width", "channels")


class EfficientNet(nn.Module):
    """A stem of stride 2, stages of blocks, a 1×1 convolution, the mean over pixels, a linear head."""

    num_classes: int
    stages: tuple[Stage, ...] = LITE0
    stem_channels: int = 32
    top_channels: int = 1280
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self):
        self.stem = _conv(self.stem_channels, 3, 2, dtype=self.dtype)
        self.stem_norm = _norm(self.dtype)
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if self.remat else InvertedResidual
        self.block = [
            block(each.size, 1 if i else each.stride, each.expand, each.channels, self.dtype)
            for each in self.stages
            for i in range(each.blocks)
        ]
        self.top = _conv(self.top_channels, 1, dtype=self.dtype)
        self.top_norm = _norm(self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, x, train: bool = False):
        check_images(x)
        x = nn.relu6(self.stem_norm(self.stem(x), use_running_average=not train))
        for block in self.block:
            x = block(x, train)
        return nn.relu6(self.top_norm(self.top(x), use_running_average=not train)).mean((1, 2))

    def __call__(self, x, train: bool = False):
        return self.head(self.drop(self.features(x, train), deterministic=not train))


def _conv(channels: int, size: int, stride: int = 1, **options: Any) -> nn.Conv:
    # "SAME" as TensorFlow pads, where the published weights come from: at stride 2 more on the far side.
    start = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(channels, (size, size), stride, padding="SAME", use_bias=False, kernel_init=start, **options)


def _norm(dtype: Any, **options: Any) -> nn.BatchNorm:
    return nn.BatchNorm(momentum=0.99, epsilon=1e-3, dtype=dtype, **options)


def efficientnet(num_classes: int, **sizes: Any) -> Classifier:
    """EfficientNet-lite on images `[B, H, W, C]`, by default lite0: 4.65 million weights for 1,000 classes at 224 pixels.

    Args:
      num_classes: outputs of the head on the features, the mean over pixels of the last convolution.
      **sizes: fields of `EfficientNet`: stages, stem_channels, top_channels, dropout (before the head), dtype (of the
        computation), remat.

    Source: Tan and Le, EfficientNet, ICML 2019, table 1; its lite form leaves squeeze-and-excitation out and has ReLU6.
    """
    return from_linen(EfficientNet(num_classes, **sizes))
