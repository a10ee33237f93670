import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from clujax.regression.estimators import LabRbfClassifier, LabRbfRegressor, LabRbfRegressorCV

TINY = {"n_max": 30, "grow_steps": 20, "final_steps": 20, "batch_size": 32, "random_state": 0}


@parametrize_with_checks(
    [
        LabRbfRegressor(**TINY),
        LabRbfClassifier(n_max=30, grow_epochs=4, final_epochs=4, batch_size=32, random_state=0),
        LabRbfRegressorCV(**TINY, kernels=("gaussian",), ridges=(1e-3, 1e-1), trial_grow_steps=5, trial_final_steps=5),
    ]
)
def test_scikit_learn_protocol(estimator, check):
    check(estimator)
