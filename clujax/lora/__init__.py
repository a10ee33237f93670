"""Low-rank adapters on any tree of parameters, and training them for flat minima of the merged network."""

from clujax.lora.adapters import Adapters, check, check_shapes, delta, effective, init, labels, merge, unmerge
from clujax.lora.apply import factored, lorafy
from clujax.lora.checkpoints import restore_adapters, save_adapters, spec_from_record, spec_record
from clujax.lora.diagnostics import Explored, ascent, explored
from clujax.lora.initializations import (
    Initialization,
    a_first,
    alternating,
    b_first,
    gaussian,
    he,
    kaiming,
    lora_ga,
    olora,
    pissa,
    stable,
    stable_orthogonal,
)
from clujax.lora.merging import MergeError, merge_error, merge_stochastically, round_stochastically
from clujax.lora.optimizers import lora_plus
from clujax.lora.peft import module_name, read_peft, write_peft
from clujax.lora.rules import Adapted, LoraRule, Spec, build_spec, rank_stabilized, standard

__all__ = [
    "Adapted",
    "Adapters",
    "Explored",
    "Initialization",
    "LoraRule",
    "MergeError",
    "Spec",
    "a_first",
    "alternating",
    "ascent",
    "b_first",
    "build_spec",
    "check",
    "check_shapes",
    "delta",
    "effective",
    "explored",
    "factored",
    "gaussian",
    "he",
    "init",
    "kaiming",
    "labels",
    "lora_ga",
    "lora_plus",
    "lorafy",
    "merge",
    "merge_error",
    "merge_stochastically",
    "module_name",
    "olora",
    "pissa",
    "rank_stabilized",
    "read_peft",
    "restore_adapters",
    "round_stochastically",
    "save_adapters",
    "spec_from_record",
    "spec_record",
    "stable",
    "stable_orthogonal",
    "standard",
    "unmerge",
    "write_peft",
]
