"""Multilayer perceptron."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from clujax.models.classifier import Classifier, from_linen

# U(±1/√fan_in), the default of PyTorch's linear layers, with which the published small tables were made.
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
    """Flatten, then ReLU layers of the given widths, then a linear head."""

    num_classes: int
    widths: Sequence[int] = (256, 128)
    dtype: Any = jnp.float32

    def setup(self):
        self.layers = [nn.Dense(width, dtype=self.dtype, kernel_init=UNIFORM) for width in self.widths]
        self.head = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=UNIFORM)

    def features(self, x, train: bool = False):
        if x.ndim < 2:
            raise ValueError(f"inputs has shape {x.shape}; expected a batch [B, ...].")
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = nn.relu(layer(x))
        return x

    def __call__(self, x, train: bool = False):
        return self.head(self.features(x, train))


def mlp(num_classes: int, widths: Sequence[int] = (256, 128), dtype: Any = jnp.float32) -> Classifier:
    """A ReLU perceptron on flattened inputs."""
    return from_linen(MLP(num_classes, tuple(widths), dtype))
