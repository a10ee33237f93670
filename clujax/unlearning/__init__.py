"""Machine unlearning: carry out a forget request, and show beside retraining what was achieved.

In a notebook: make a `Request`, choose a method (`sfron`, `salun`, ...), call `unlearn`, then `predictions` and
`evaluate`. From the command line: `clujax run configs/unlearning/demo.py --workdir DIR`.
"""

from clujax.unlearning.attacks import entropy_attack, fit_logistic
from clujax.unlearning.decomposition import parts_probe
from clujax.unlearning.heads import Certificate, certify_head
from clujax.unlearning.importance import balanced_mask, fisher_diagonals, load_diagonals, save_diagonals
from clujax.unlearning.losses import adaptive_ascent, random_relabel, wrong_labels
from clujax.unlearning.method import Method, Outcome, Plan, unlearn
from clujax.unlearning.methods import (
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cf_k,
    eu_k,
    euclidean,
    finetune,
    fisher_forgetting,
    fixed_fisher,
    gradient_ascent,
    influence,
    l1_sparse,
    muso,
    neg_grad_plus,
    npo,
    ntk,
    random_label,
    remain_newton,
    retrain,
    rum,
    salun,
    scrub,
    scrub_r,
    sfron,
    sim_npo,
    ssd,
    unsir,
)
from clujax.unlearning.metrics import METRICS, evaluate, gaps, predict, predictions
from clujax.unlearning.request import Request, check_request

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
    "METRICS",
    "Certificate",
    "Method",
    "Outcome",
    "Plan",
    "Request",
    "adaptive_ascent",
    "bad_teacher",
    "balanced_mask",
    "certify_head",
    "check_request",
    "entropy_attack",
    "euclidean",
    "evaluate",
    "finetune",
    "fisher_diagonals",
    "fit_logistic",
    "fixed_fisher",
    "gaps",
    "gradient_ascent",
    "load_diagonals",
    "muso",
    "parts_probe",
    "predict",
    "predictions",
    "random_label",
    "random_relabel",
    "remain_newton",
    "retrain",
    "salun",
    "save_diagonals",
    "scrub",
    "sfron",
    "unlearn",
    "wrong_labels",
]
