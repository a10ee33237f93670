"""Low-rank adapters on any tree of parameters, and training them for flat minima of the merged network."""

from clujax.lora.adapters import Adapters, check, delta, effective, init, labels, merge, unmerge
from clujax.lora.flat import merged_std, perturbed, scan_layers, sq_norms
from clujax.lora.initializations import Initialization, gaussian, he, kaiming
from clujax.lora.rules import Adapted, LoraRule, Spec, build_spec, rank_stabilized, standard
from clujax.lora.steps import LoraState, Noise, init_state, make_step, per_microbatch, per_shard, per_step

__all__ = [
    "Adapted",
    "Adapters",
    "Initialization",
    "LoraRule",
    "LoraState",
    "Noise",
    "Spec",
    "build_spec",
    "check",
    "delta",
    "effective",
    "gaussian",
    "he",
    "init",
    "init_state",
    "kaiming",
    "labels",
    "make_step",
    "merge",
    "merged_std",
    "per_microbatch",
    "per_shard",
    "per_step",
    "perturbed",
    "rank_stabilized",
    "scan_layers",
    "sq_norms",
    "standard",
    "unmerge",
]
