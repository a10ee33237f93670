"""LAB-RBF kernel regression: a few hundred support points, each with its own bandwidths in every dimension.

Coefficients come in closed form from the support (`solve`); bandwidths descend the error of that closed form over the
training rows (`bandwidths`); the support grows by the rows fitted worst (`selection`); `fit` is the driver, `choice` picks
its settings without the test rows. `clujax.regression.estimators`, imported by that name, has the scikit-learn face.
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
from clujax.regression.choice import choose, choose_size, leave_one_out_ridge, with_ridge
from clujax.regression.fit import FitOptions, FitState, LabRbfModel, fit_lab_rbf, predict
from clujax.regression.report import classification_metrics, regression_metrics, relevance, sparsity_report
from clujax.regression.solve import (
    AsymKrr,
    ConditioningWarning,
    check_conditioning,
    fit_coefficients,
    leave_one_out,
    objective,
)
from clujax.regression.tables import load_table

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
    "choose",
    "choose_size",
    "classification_metrics",
    "fit_coefficients",
    "fit_lab_rbf",
    "fit_support",
    "index_stream",
    "leave_one_out",
    "leave_one_out_ridge",
    "load_table",
    "objective",
    "predict",
    "regression_metrics",
    "relevance",
    "sparsity_report",
    "train_bandwidths",
    "with_ridge",
]
