"""Low-rank adapters on any tree of parameters, and training them for flat minima of the merged network."""

from clujax.lora.adapters import Adapters, check, delta, effective, init, labels, merge, unmerge
from clujax.lora.initializations import Initialization, gaussian, he, kaiming
from clujax.lora.rules import Adapted, LoraRule, Spec, build_spec, rank_stabilized, standard

__all__ = [
    "Adapted",
    "Adapters",
    "Initialization",
    "LoraRule",
    "Spec",
    "build_spec",
    "check",
    "delta",
    "effective",
    "gaussian",
    "he",
    "init",
    "kaiming",
    "labels",
    "merge",
    "rank_stabilized",
    "standard",
    "unmerge",
]
