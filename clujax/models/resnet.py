"""ResNet-18 to 152 for small images: a 3×3 stem without pooling, BatchNorm."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, check_images, from_linen

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
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A 3×3 stem, four stages of blocks, the mean over pixels, a linear head."""

    num_classes: int
    depth: int = 18
    width: int = 64
    dtype: Any = jnp.float32

    def setup(self):
        counts, bottleneck = DEPTHS[self.depth]
        self.stem = nn.Conv(
            self.width,
            (3, 3),
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        )
        self.stem_norm = nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        self.blocks = [
            Block(self.width * 2**stage, 2 if stage and not i else 1, bottleneck, self.dtype)
            for stage, count in enumerate(counts)
            for i in range(count)
        ]
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def features(self, x, train: bool = False):
        check_images(x)
        x = nn.relu(self.stem_norm(self.stem(x), use_running_average=not train))
        for block in self.blocks:
            x = block(x, train)
        return x.mean((1, 2))

    def __call__(self, x, train: bool = False):
        return self.head(self.features(x, train))


def resnet(num_classes: int, depth: int = 18, width: int = 64, dtype: Any = jnp.float32) -> Classifier:
    """ResNet of a standard depth for small images `[B, H, W, C]`.

    The same function of the same weights as the usual PyTorch one (3×3 stem), but for the running variance: this is the
    batch's own, PyTorch's its unbiased estimate, n/(n−1) times as large for n pixels. Convolutions start as He et al. 2015
    (normal, fan out), not with PyTorch's default.

    Args:
      num_classes: number of classes.
      depth: 18, 34, 50, 101 or 152.
      width: channels of the first stage; 64 is standard, 16 suits a CPU.
      dtype: of the computation; parameters and BatchNorm averages are float32.

    Raises:
      ValueError: another depth.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth is {depth}; expected one of {sorted(DEPTHS)}.")
    return from_linen(ResNet(num_classes, depth, width, dtype))
