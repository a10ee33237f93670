"""A probe of the gradient's parts along a run: what the forget and remain rows ask of the weights, and how they agree."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from clujax.unlearning.losses import cross_entropy
from clujax.unlearning.request import Request
