"""ResNet-18 to 152 with BatchNorm, behind the stem for small images or the one for large images."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, check_images, from_linen
from clujax.models.layout import constrain

# depth: (blocks in each stage, whether a block is a bottleneck)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class Block(nn.Module):
    """Basic (3×3, 3×3) or bottleneck (1×1, 3×3, 1×1) residual block; a 1×1 convolution where the shape changes."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv = lambda width, size, stride=1: nn.Conv(
            width,
            (size, size),
            (stride, stride),
            padding=size // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        )
        norm = lambda: nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        out = 4 * self.width if self.bottleneck else self.width
        if self.bottleneck:
            y = nn.relu(norm()(conv(self.width, 1)(x)))
            y = nn.relu(norm()(conv(self.width, 3, self.stride)(y)))
            y = norm()(conv(out, 1)(y))
        else:
            y = nn.relu(norm()(conv(self.width, 3, self.stride)(x)))
            y = norm()(conv(out, 3)(y))
        if self.stride != 1 or x.shape[-1] != out:
            x = norm()(conv(out, 1, self.stride)(x))
        return constrain(nn.relu(x + y), "rows", "height", "width", "channels")


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean over pixels, a linear head."""

    num_classes: int
    depth: int = 18
    width: int = 64
    dtype: Any = jnp.float32
    large: bool = False
    remat: bool = False

    def setup(self):
        counts, bottleneck = DEPTHS[self.depth]
        self.stem = nn.Conv(
            self.width,
            (7, 7) if self.large else (3, 3),
            strides=2 if self.large else 1,
            padding=3 if self.large else 1,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        )
        self.stem_norm = nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        self.blocks = [
            block(self.width * 2**stage, 2 if stage and not i else 1, bottleneck, self.dtype)
            for stage, count in enumerate(counts)
            for i in range(count)
        ]
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, x, train: bool = False):
        check_images(x)
        x = nn.relu(self.stem_norm(self.stem(x), use_running_average=not train))
        if self.large:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, train)
        return x.mean((1, 2))

    def __call__(self, x, train: bool = False):
        return self.head(self.features(x, train))


STEMS = {"small": False, "large": True}


def resnet(
    num_classes: int,
    depth: int = 18,
    width: int = 64,
    dtype: Any = jnp.float32,
    stem: str = "small",
    remat: bool = False,
) -> Classifier:
    """ResNet of a standard depth on images `[B, H, W, C]`.

    The same function of the same weights as the usual PyTorch one of that stem, but for the running variance: this is the
    batch's own, PyTorch's its unbiased estimate, n/(n−1) times as large for n pixels. Convolutions start as He et al. 2015
    (normal, fan out), not with PyTorch's default.

    Args:
      num_classes: number of classes.
      depth: 18, 34, 50, 101 or 152.
      width: channels of the first stage; 64 is standard, 16 suits a CPU.
      dtype: of the computation; parameters and BatchNorm averages are float32.
      stem: "small" (3×3, for 32 pixels) or "large" (7×7 of stride 2 and pooling, for 224 pixels).
      remat: keep one activation a block and compute the rest again on the way back: a third more arithmetic.

    Raises:
      ValueError: another depth or stem.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth is {depth}; expected one of {sorted(DEPTHS)}.")
    if stem not in STEMS:
        raise ValueError(f"stem is {stem!r}; expected one of {tuple(STEMS)}.")
    return from_linen(ResNet(num_classes, depth, width, dtype, STEMS[stem], remat))
