"""One file a method; each is a function of keyword settings that returns a `Method`."""

from clujax.unlearning.methods.bad_teacher import bad_teacher
from clujax.unlearning.methods.finetune import finetune
from clujax.unlearning.methods.gradient_ascent import gradient_ascent
from clujax.unlearning.methods.muso import muso, published_ridge
from clujax.unlearning.methods.one_step import euclidean, fixed_fisher, one_step, remain_newton
from clujax.unlearning.methods.random_label import random_label
from clujax.unlearning.methods.retrain import retrain
from clujax.unlearning.methods.salun import salun
from clujax.unlearning.methods.scrub import scrub
from clujax.unlearning.methods.sfron import sfron

__all__ = [
    "bad_teacher",
    "euclidean",
    "finetune",
    "fixed_fisher",
    "gradient_ascent",
    "muso",
    "one_step",
    "published_ridge",
    "random_label",
    "remain_newton",
    "retrain",
    "salun",
    "scrub",
    "sfron",
]
