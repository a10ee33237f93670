"""Planning: the real step of a config, compiled ahead of time for a slice that is not here.

`topology` names slices and makes meshes of their devices, `hlo`, `groups` and `counting` read the compiled program,
`analysis` makes a `StepPlan` of it, `roofline` says how long it takes at best, `advice` what would make it fit.
"""

from clujax.planning.advice import Advice, Memory, advise
from clujax.planning.analysis import StepPlan, analyse
from clujax.planning.command import plan
from clujax.planning.topology import Topology

__all__ = ["Advice", "Memory", "StepPlan", "Topology", "advise", "analyse", "plan"]
