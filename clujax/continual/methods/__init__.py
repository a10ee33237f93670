"""The methods, one file a family, each a function of keyword settings."""

from clujax.continual.methods.after import after
from clujax.continual.methods.clpu import clpu
from clujax.continual.methods.der import der, der_plus
from clujax.continual.methods.distill import distill
from clujax.continual.methods.ewc import ewc, online_ewc
from clujax.continual.methods.finetune import finetune
from clujax.continual.methods.joint import joint
from clujax.continual.methods.lwf import lwf
from clujax.continual.methods.oracle import oracle
from clujax.continual.methods.replay import replay
from clujax.continual.methods.ug_clu import ug_clu

__all__ = [
    "after",
    "clpu",
    "der",
    "der_plus",
    "distill",
    "ewc",
    "finetune",
    "joint",
    "lwf",
    "online_ewc",
    "oracle",
    "replay",
    "ug_clu",
]
