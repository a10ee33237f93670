import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from clujax.geometry.kernels import gaussian
from clujax.regression import (
    FitOptions,
    Objective,
    baselines,
    choose,
    choose_size,
    fit_lab_rbf,
    leave_one_out_ridge,
    predict,
    with_ridge,
)
from clujax.regression.bandwidths import sse
from clujax.regression.choice import error_rate, hold_out
from clujax.regression.estimators import LabRbfClassifier, LabRbfRegressor, LabRbfRegressorCV
from clujax.regression.scaling import min_max
from clujax.regression.selection import Pool, misclassified, per_class

KEY = jax.random.key(0)
SMALL = FitOptions(n_max=20, n_init=10, grow_steps=10, final_steps=20, batch_size=16)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (90, 2))
    return x, np.sin(3 * x[:, 0]) + x[:, 1] ** 2


def test_the_candidate_of_least_held_out_error_is_chosen(rows):
    candidates = [SMALL._replace(ridge=ridge) for ridge in (100.0, 1e-2)]
    found = choose(KEY, *rows, candidates, grow_steps=2, final_steps=2)
    assert found.options is candidates[1]
    assert found.errors[1] < 0.5 * found.errors[0]
    fit_rows, held = hold_out(KEY, 90)
    assert (len(held), len(np.intersect1d(fit_rows, held))) == (18, 0)


def test_growth_on_noise_is_stopped_and_growth_on_a_function_is_not(rows):
    x, y = rows
    noise = np.random.default_rng(1).normal(size=90)
    grown = SMALL._replace(n_max=50, ridge=1e-3)
    assert choose_size(KEY, x, noise, grown).n_max < 50
    kept = choose_size(KEY, x, y, grown)
    assert kept.n_max >= 40


def test_leave_one_out_ridge_is_refitting(x64, rows):
    x, y = rows
    model, state = fit_lab_rbf(KEY, x, y, SMALL._replace(dtype=np.float64))
    best, errors = leave_one_out_ridge(model, (1e-3, 1e-1, 10.0))
    assert best == (1e-3, 1e-1, 10.0)[int(np.argmin(errors))]
    assert errors[2] == max(errors)
    again, _ = fit_lab_rbf(
        KEY,
        x,
        y,
        SMALL._replace(dtype=np.float64, ridge=0.5, grow_steps=0, final_steps=0, n_max=20),
        support=state.support,
    )
    solved = with_ridge(again.replace(theta=model.theta), 1e-3)
    np.testing.assert_allclose(solved.coef, model.coef, atol=1e-8)


@pytest.mark.parametrize("choose_by", ["hold-out", "leave-one-out"])
def test_the_estimator_chooses_its_ridge(rows, choose_by):
    settings = {"n_max": 20, "grow_steps": 10, "final_steps": 10, "batch_size": 16, "random_state": 0}
    trials = {"trial_grow_steps": 10, "trial_final_steps": 10, "kernels": ("gaussian",), "bandwidths": (3.0,)}
    found = LabRbfRegressorCV(choose_by=choose_by, ridges=(1e-3, 100.0), **settings, **trials).fit(*rows)
    assert (found.ridge_, found.kernel_) == (1e-3, "gaussian")
    with pytest.raises(ValueError, match="choose_by"):
        LabRbfRegressorCV(choose_by="luck", **settings).fit(*rows)


def test_attributes_make_the_prediction(rows):
    """What a user computes from the fitted attributes, in original units, is what `predict` says."""
    x, y = rows
    x = 100 * x + 7
    model = LabRbfRegressor(kernel="gaussian", n_max=20, grow_steps=10, final_steps=10, random_state=0).fit(x, y)
    distance = (((x[:, None] - model.support_vectors_) * model.theta_) ** 2).sum(-1)
    by_hand = model.intercept_ + np.exp(-distance) @ model.dual_coef_
    np.testing.assert_allclose(np.clip(by_hand, y.min(), y.max()), model.predict(x), atol=1e-4)
    np.testing.assert_array_equal(model.support_vectors_, x[model.support_])
    assert model.n_support_ == len(np.unique(model.support_))


def test_float64_is_switched_on_for_the_call_only(rows):
    model = LabRbfRegressor(dtype="float64", n_max=10, grow_steps=2, final_steps=2, batch_size=16, random_state=0).fit(
        *rows
    )
    assert model.model_.theta.dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert model.predict(rows[0]).dtype == np.float64


def test_growth_by_misclassified_rows_of_each_class():
    target = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    wrong = target[:, ::-1].copy()
    wrong[[0, 3]] = target[[0, 3]]
    pool = Pool(wrong, target, target, np.arange(6), np.array([1]))
    chosen = misclassified(np.random.default_rng(0), pool, 4)
    assert sorted(chosen) == [2, 4, 5]
    assert sorted(np.bincount(target[per_class(np.random.default_rng(0), target, 4)].argmax(-1))) == [2, 2]


def test_a_classifier_beats_its_own_start(rows):
    x = rows[0]
    label = np.where(x[:, 0] ** 2 + x[:, 1] ** 2 < 0.4, "in", "out")
    model = LabRbfClassifier(n_max=30, grow_epochs=5, final_epochs=20, batch_size=32, random_state=0).fit(x, label)
    assert model.score(x, label) > 0.9
    assert model.decision_function(x).shape == (90,)
    targets = np.eye(2)[(label == "out").astype(int)]
    options = SMALL._replace(
        objective=Objective(gaussian, sse), start=per_class, grow=misclassified, scale_y=False, clip=False
    )
    assert error_rate(predict(fit_lab_rbf(KEY, x, targets, options)[0], x), targets) < 0.3


def test_kernel_ridge_is_scikit_learns(rows):
    x, y = rows
    ours = baselines.kernel_ridge(KEY, x, y, gammas=(2.0,), ridges=(1e-2,))
    sx, sy = min_max(x), min_max(y)
    target = sy.forward(y)
    theirs = KernelRidge(kernel="rbf", gamma=1.0, alpha=1e-2).fit(sx.forward(x), target - target.mean())
    expected = sy.inverse(theirs.predict(sx.forward(x)) + target.mean())
    np.testing.assert_allclose(ours.predict(x), np.clip(expected, y.min(), y.max()), atol=1e-10)


@pytest.mark.parametrize("name", ["support_vector", "residual_network"])
def test_baselines_learn(rows, name):
    x, y = rows
    more = (
        {"gammas": (1.0, 10.0), "costs": (10.0,)}
        if name == "support_vector"
        else {"steps": 400, "batch_size": 32, "net": baselines.ResidualNet(16, 1), "learning_rate": 1e-2}
    )
    found = getattr(baselines, name)(KEY, x, y, **more)
    assert np.mean((found.predict(x) - y) ** 2) < 0.1 * np.var(y)


def test_the_room_is_imported_without_scikit_learn():
    script = "import sys, clujax.regression, clujax.regression.experiment; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
