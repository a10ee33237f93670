"""SFR-on's objective taken in one step an iteration: the Euclidean, fixed-Fisher and exact remain-Newton geometries.

The fast–slow update of `sfron` approximates the last one; these are its ablations and its reference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax
import optax

from clujax.geometry import inverse_gnvp
from clujax.transforms import mask_updates
from clujax.training import TrainState
from clujax.unlearning.importance import balanced_mask, fisher_diagonals
from clujax.unlearning.losses import adaptive_ascent, cross_entropy, descend, objective_loss
from clujax.unlearning.method import Method, Plan
from clujax.unlearning.methods.sfron import check_settings
from clujax.unlearning.request import forward, stream
from clujax.unlearning.schedules import cosine
