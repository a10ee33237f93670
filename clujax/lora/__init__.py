"""Low-rank adapters on any tree of parameters, and training them for flat minima of the merged network."""

from clujax.lora.adapters import Adapters, check, check_shapes, delta, effective, init, labels, merge, unmerge
from clujax.lora.apply import factored, lorafy
from clujax.lora.checkpoints import restore_adapters, save_adapters, spec_from_record, spec_record
from clujax.lora.diagnostics import Explored, ascent, explored
from clujax.lora.flat import merged_std, perturbed, scan_layers, sq_norms
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
from clujax.lora.rank_allocation import (
    AllocationState,
    Trained,
    allocate_rank,
    cubic_budget,
    factors,
    init_singular,
    non_orthogonality,
)
from clujax.lora.rules import Adapted, LoraRule, Spec, build_spec, rank_stabilized, standard
from clujax.lora.sam import lora_sam, make_merged_sam_step
from clujax.lora.steps import LoraState, Noise, init_state, make_step, per_microbatch, per_shard, per_step

__all__ = [
    "Adapted",
    "Adapters",
    "AllocationState",
    "Explored",
    "Initialization",
    "LoraRule",
    "LoraState",
    "MergeError",
    "Noise",
    "Spec",
    "Trained",
    "a_first",
    "allocate_rank",
    "alternating",
    "ascent",
    "b_first",
    "build_spec",
    "check",
    "check_shapes",
    "cubic_budget",
    "delta",
    "effective",
    "explored",
    "factored",
    "factors",
    "gaussian",
    "he",
    "init",
    "init_singular",
    "init_state",
    "kaiming",
    "labels",
    "lora_ga",
    "lora_plus",
    "lora_sam",
    "lorafy",
    "make_merged_sam_step",
    "make_step",
    "merge",
    "merge_error",
    "merge_stochastically",
    "merged_std",
    "module_name",
    "non_orthogonality",
    "olora",
    "per_microbatch",
    "per_shard",
    "per_step",
    "perturbed",
    "pissa",
    "rank_stabilized",
    "read_peft",
    "restore_adapters",
    "round_stochastically",
    "save_adapters",
    "scan_layers",
    "spec_from_record",
    "spec_record",
    "sq_norms",
    "stable",
    "stable_orthogonal",
    "standard",
    "unmerge",
    "write_peft",
]
