"""The mathematics of `clujax.geometry` as optax transformations: one idea, one file.

Each is a drop-in for any chain: plain parameter trees in and out, any leaf dtype, sharded or not, under jit, vmap and scan.
"""

from clujax.transforms.adaptive import adaptive_coefficients, effective_sample_size
from clujax.transforms.cycle import cycle
from clujax.transforms.masking import mask_by_state, mask_updates
from clujax.transforms.phased import FORGET, LEARN, REMAIN, phased, scale_by_iteration_rate
from clujax.transforms.random_weight_perturbation import cosine_increase, random_weight_perturbation
from clujax.transforms.sfron import sfron
from clujax.transforms.slow import slow_weights
from clujax.transforms.ug_clu import ug_clu, with_masks

__all__ = [
    "FORGET",
    "LEARN",
    "REMAIN",
    "adaptive_coefficients",
    "cosine_increase",
    "cycle",
    "effective_sample_size",
    "mask_by_state",
    "mask_updates",
    "phased",
    "random_weight_perturbation",
    "scale_by_iteration_rate",
    "sfron",
    "slow_weights",
    "ug_clu",
    "with_masks",
]
