"""Training: states on a mesh, compiled steps, and a loop that survives kills.

`init_state` makes the value that is trained, `make_train_step` compiles a loss and an optax transformation to a step,
`fit` drives any step over `batch_at(i)`, with `Checkpoints` to resume from to the bit and a `Writer` for metrics.
`make_mesh` and path rules (`fsdp`, `replicate`, `tensor`) lay all of it out over devices; `workdir` guards a run's
directory and writes its results whole or not at all.
"""

from clujax.errors import Preempted
from clujax.training import preemption, processes, workdir
from clujax.training.checkpoint import Checkpoints, abstract
from clujax.training.digest import tree_digest
from clujax.training.loop import History, NonFiniteError, fit
from clujax.training.mesh import make_mesh
from clujax.training.metrics import Writer
from clujax.training.outline import Outline, lower
from clujax.training.sharding import batch_sharding, fsdp, partition, replicate, shard, shard_batch, shardings, tensor
from clujax.training.state import TrainState, init_state
from clujax.training.step import default_block, make_block_step, make_train_step

__all__ = [
    "Checkpoints",
    "History",
    "NonFiniteError",
    "Outline",
    "Preempted",
    "TrainState",
    "Writer",
    "abstract",
    "batch_sharding",
    "default_block",
    "fit",
    "fsdp",
    "init_state",
    "lower",
    "make_block_step",
    "make_mesh",
    "make_train_step",
    "partition",
    "preemption",
    "processes",
    "replicate",
    "shard",
    "shard_batch",
    "shardings",
    "tensor",
    "tree_digest",
    "workdir",
]
