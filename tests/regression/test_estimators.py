from sklearn.utils.estimator_checks import parametrize_with_checks

from clujax.regression.estimators import LabRbfClassifier, LabRbfRegressor


@parametrize_with_checks(
    [
        LabRbfRegressor(n_max=30, grow_steps=20, final_steps=20, batch_size=32, random_state=0),
        LabRbfClassifier(n_max=30, grow_epochs=2, final_epochs=2, batch_size=32, random_state=0),
    ]
)
def test_scikit_learn_protocol(estimator, check):
    check(estimator)
