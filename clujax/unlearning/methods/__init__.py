"""One file a method; each is a function of keyword settings that returns a `Method`."""

from clujax.unlearning.methods.bad_teacher import bad_teacher
from clujax.unlearning.methods.boundary import boundary_expand, boundary_shrink
from clujax.unlearning.methods.finetune import finetune
from clujax.unlearning.methods.fisher_forgetting import fisher_forgetting
from clujax.unlearning.methods.gradient_ascent import gradient_ascent
from clujax.unlearning.methods.influence import influence
from clujax.unlearning.methods.l1_sparse import l1_sparse
from clujax.unlearning.methods.layers import cf_k, eu_k
from clujax.unlearning.methods.muso import muso, published_ridge
from clujax.unlearning.methods.neg_grad_plus import neg_grad_plus
from clujax.unlearning.methods.npo import npo, sim_npo
from clujax.unlearning.methods.ntk import ntk
from clujax.unlearning.methods.one_step import euclidean, fixed_fisher, one_step, remain_newton
from clujax.unlearning.methods.random_label import random_label
from clujax.unlearning.methods.retrain import retrain
from clujax.unlearning.methods.rum import rum
from clujax.unlearning.methods.salun import salun
from clujax.unlearning.methods.scrub import scrub, scrub_r
from clujax.unlearning.methods.sfron import sfron
from clujax.unlearning.methods.ssd import ssd
from clujax.unlearning.methods.unsir import unsir

__all__ = [
    "boundary_expand",
    "boundary_shrink",
    "fisher_forgetting",
    "influence",
    "l1_sparse",
    "cf_k",
    "eu_k",
    "neg_grad_plus",
    "npo",
    "sim_npo",
    "ntk",
    "rum",
    "ssd",
    "unsir",
    "scrub_r",
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
