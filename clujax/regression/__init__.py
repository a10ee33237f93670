"""LAB-RBF kernel regression: a few hundred support points, each with its own bandwidths in every dimension.

Coefficients come in closed form from the support (`solve`); bandwidths descend the error of that closed form over the
training rows (`bandwidths`); the support grows by the rows fitted worst (`selection`); `fit` is the driver.
"""

from clujax.regression.bandwidths import (
    ARD,
    LOCAL,
    LOCAL_SCALAR,
    POSITIVE,
    SCALAR,
    Bandwidths,
    Objective,
    adam,
    bandwidth_loss,
    fit_support,
    index_stream,
    train_bandwidths,
)
from clujax.regression.fit import FitOptions, FitState, LabRbfModel, fit_lab_rbf, predict
from clujax.regression.report import regression_metrics, sparsity_report
from clujax.regression.solve import (
    AsymKrr,
    ConditioningWarning,
    check_conditioning,
    fit_coefficients,
    leave_one_out,
    objective,
)

__all__ = [
    "ARD",
    "LOCAL",
    "LOCAL_SCALAR",
    "POSITIVE",
    "SCALAR",
    "AsymKrr",
    "Bandwidths",
    "ConditioningWarning",
    "FitOptions",
    "FitState",
    "LabRbfModel",
    "Objective",
    "adam",
    "bandwidth_loss",
    "check_conditioning",
    "fit_coefficients",
    "fit_lab_rbf",
    "fit_support",
    "index_stream",
    "leave_one_out",
    "objective",
    "predict",
    "regression_metrics",
    "sparsity_report",
    "train_bandwidths",
]
