"""Membership attacks on cached logits: does the network still treat forgotten rows as its own?

Every number is read against the same number for a retrained network. Scores of rows (`scores`), attacks on one score by a
logistic model, a support-vector machine or thresholds, readings of ROC curves (`roc`), and attacks by many models
(`likelihood`, `quality`).
"""

from clujax.attacks.likelihood import Audit, lira, ruli, u_lira
from clujax.attacks.logistic import Logistic, entropy_attack, fit_logistic, loss_attack
from clujax.attacks.quality import (
    NullScore,
    challenge_score,
    example_scores,
    forget_epsilon,
    forget_score,
    null_score,
)
from clujax.attacks.roc import auc, balanced_accuracy, loss_auc, priv_leak, tpr_at_fpr
from clujax.attacks.scores import (
    confidence,
    correctness,
    cross_entropy,
    entropy,
    m_entropy,
    scaled_confidence,
)
from clujax.attacks.svc import SVC, decide, fit_svc, svc_attack, training_privacy
from clujax.attacks.threshold import (
    Thresholds,
    called_members,
    correctness_attack,
    fit_thresholds,
    threshold_attack,
)

__all__ = [
    "SVC",
    "Audit",
    "Logistic",
    "NullScore",
    "Thresholds",
    "auc",
    "balanced_accuracy",
    "called_members",
    "challenge_score",
    "confidence",
    "correctness",
    "correctness_attack",
    "cross_entropy",
    "decide",
    "entropy",
    "entropy_attack",
    "example_scores",
    "fit_logistic",
    "fit_svc",
    "fit_thresholds",
    "forget_epsilon",
    "forget_score",
    "lira",
    "loss_attack",
    "loss_auc",
    "m_entropy",
    "null_score",
    "priv_leak",
    "ruli",
    "scaled_confidence",
    "svc_attack",
    "threshold_attack",
    "tpr_at_fpr",
    "training_privacy",
    "u_lira",
]
