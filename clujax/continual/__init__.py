"""Continual learning and unlearning: a stream of requests, carried out one after the other.

A `Request` names rows to learn and to forget; `check_request` says what it changes; a method of `methods` (`ug_clu`,
`replay`, `oracle`, ...) made for a `Scene` carries it out by `carry_out`. A `Deployment` does so in a directory, each request
exactly once, with a `ledger`. From the command line: `clujax run configs/continual/demo.py --workdir DIR`,
`clujax serve-requests`, `clujax ledger`.
"""

from clujax.continual import ledger, memory, methods, metrics
from clujax.continual.deployment import Deployment, State
from clujax.continual.memory import Memory
from clujax.continual.method import Done, Learner, Method, Rules, Scene, begin, carry_out, predictor
from clujax.continual.request import Change, Request, check_request, standing_after
from clujax.continual.scenarios import make_stream

__all__ = [
    "Change",
    "Deployment",
    "Done",
    "Learner",
    "Memory",
    "Method",
    "Request",
    "Rules",
    "Scene",
    "State",
    "begin",
    "carry_out",
    "check_request",
    "ledger",
    "make_stream",
    "memory",
    "methods",
    "metrics",
    "predictor",
    "standing_after",
]
