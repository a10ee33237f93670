"""Machine unlearning: carry out a forget request, and show beside retraining what was achieved.

In a notebook: make a `Request`, choose a method (`sfron`, `salun`, ...), call `unlearn`, then `predictions` and
`evaluate`. From the command line: `clujax run configs/unlearning/demo.py --workdir DIR`. Attacks on cached logits are in
`clujax.attacks`, the exactly solvable problem in `clujax.unlearning.random_features`.
"""

from clujax import attacks
from clujax.adaptation.importance import balanced_mask, fisher_diagonals, load_diagonals, save_diagonals
from clujax.adaptation.losses import adaptive_ascent, random_relabel, wrong_labels
from clujax.adaptation.method import Method, Outcome, Plan, unlearn
from clujax.adaptation.predictions import predict, predictions
from clujax.adaptation.request import Request, check_request
from clujax.attacks import entropy_attack, fit_logistic
from clujax.unlearning import distances, heads, random_features
from clujax.unlearning.cases import Case, case_for
from clujax.unlearning.decomposition import parts_probe
from clujax.unlearning.designs import memorization_scores, subset_masks, u_lira_scores
from clujax.unlearning.ensembles import Ensemble, ensemble_logits, repeated, train_ensemble
from clujax.unlearning.heads import Certificate, certify_head
from clujax.unlearning.intervals import bootstrap_interval, noise_ellipse, paired_gap_interval, t_interval
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
from clujax.unlearning.metrics import METRICS, evaluate, gaps, row_outcomes, summary
from clujax.unlearning.relearning import Relearning, relearn_time
from clujax.unlearning.sweep import sweep

__all__ = [
    "METRICS",
    "Case",
    "Certificate",
    "Ensemble",
    "Method",
    "Outcome",
    "Plan",
    "Relearning",
    "Request",
    "adaptive_ascent",
    "attacks",
    "bad_teacher",
    "balanced_mask",
    "bootstrap_interval",
    "boundary_expand",
    "boundary_shrink",
    "case_for",
    "certify_head",
    "cf_k",
    "check_request",
    "distances",
    "ensemble_logits",
    "entropy_attack",
    "eu_k",
    "euclidean",
    "evaluate",
    "finetune",
    "fisher_diagonals",
    "fisher_forgetting",
    "fit_logistic",
    "fixed_fisher",
    "gaps",
    "gradient_ascent",
    "heads",
    "influence",
    "l1_sparse",
    "load_diagonals",
    "memorization_scores",
    "muso",
    "neg_grad_plus",
    "noise_ellipse",
    "npo",
    "ntk",
    "paired_gap_interval",
    "parts_probe",
    "predict",
    "predictions",
    "random_features",
    "random_label",
    "random_relabel",
    "relearn_time",
    "remain_newton",
    "repeated",
    "retrain",
    "row_outcomes",
    "rum",
    "salun",
    "save_diagonals",
    "scrub",
    "scrub_r",
    "sfron",
    "sim_npo",
    "ssd",
    "subset_masks",
    "summary",
    "sweep",
    "t_interval",
    "train_ensemble",
    "u_lira_scores",
    "unlearn",
    "unsir",
    "wrong_labels",
]
