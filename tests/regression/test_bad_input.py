import jax
import numpy as np
import pytest

from clujax.errors import ConfigError
from clujax.geometry.kernels import gaussian
from clujax.regression import ConditioningWarning, FitOptions, FitState, Objective, fit_lab_rbf, predict
from clujax.regression.settings import fit_options

KEY = jax.random.key(0)
TINY = FitOptions(n_max=8, n_init=4, grow_steps=3, final_steps=3, batch_size=8)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (30, 2))
    return x, np.sin(3 * x[:, 0]) + x[:, 1]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"kernel": "rbf"}, "laplacian, gaussian"),
        ({"loss": "huber"}, "mse, sse, rmse, mae, rsse"),
        ({"solver": "cholesky"}, "lu, gmres, normal_cg"),
        ({"selection": "worst"}, "residual, random, misclassified, published"),
        ({"start": "kmeans"}, "stratified, per_class, random"),
        ({"bandwidth_mode": "global"}, "local"),
        ({"learning_rate": 0.0}, "above 0"),
    ],
)
def test_unknown_names_list_the_options(change, options):
    with pytest.raises(ConfigError, match=options):
        fit_options(**change)


def test_functions_stand_where_names_do(rows):
    cubic = lambda prediction, target: abs(prediction - target).mean() ** 3
    rational = lambda sqdist: 1 / (1 + sqdist)
    options = fit_options(kernel=rational, loss=cubic, n_max=6, n_init=4, grow_steps=2, final_steps=2, batch_size=8)
    assert np.isfinite(predict(fit_lab_rbf(KEY, *rows, options)[0], rows[0])).all()


def test_a_start_larger_than_the_rows_is_clamped_and_a_batch_may_be(rows):
    x, y = rows
    with pytest.warns(UserWarning, match="30 distinct rows"):
        model, _ = fit_lab_rbf(KEY, x, y, TINY._replace(n_max=99, n_init=99, batch_size=64))
    assert len(model.coef) == 30


def test_duplicates_of_the_data_are_never_chosen_twice(rows):
    x, y = np.tile(rows[0][:12], (3, 1)), np.tile(rows[1][:12], 3)
    _, state = fit_lab_rbf(KEY, x, y, TINY._replace(n_max=12))
    assert len(np.unique(x[state.support], axis=0)) == 12


def test_equal_rows_without_a_ridge_are_refused_even_with_equal_targets(rows):
    x, y = np.concatenate([rows[0], rows[0][:1]]), np.append(rows[1], rows[1][0])
    with pytest.raises(ValueError, match="ridge is 0: singular"):
        fit_lab_rbf(KEY, x, y, TINY._replace(ridge=0.0), support=np.array([0, 30]))


def test_a_flat_kernel_without_a_ridge_is_refused_and_a_nearly_flat_one_told(rows):
    flat = TINY._replace(ridge=0.0, bandwidth=1e-12, grow_steps=0, final_steps=0, objective=Objective(gaussian))
    with pytest.raises(np.linalg.LinAlgError, match="fit in float64"):
        fit_lab_rbf(KEY, *rows, flat)
    with pytest.warns(ConditioningWarning, match="rcond"):
        model, _ = fit_lab_rbf(KEY, *rows, flat._replace(bandwidth=0.3))
    assert np.isfinite(predict(model, rows[0])).all()


def test_a_loss_that_diverges_keeps_the_last_finite_bandwidths(rows):
    blown = lambda prediction, target: (prediction - target).mean() / 0.0
    with pytest.warns(UserWarning, match="non-finite step"):
        model, state = fit_lab_rbf(KEY, *rows, TINY._replace(objective=Objective(loss=blown)))
    assert all(each["stopped_early"] for each in state.history)
    assert np.isfinite(model.theta).all()
    assert np.isfinite(predict(model, rows[0])).all()


@pytest.mark.parametrize("theta", [np.ones((3, 2)), np.ones((4, 5)), np.full((4, 2), np.nan)])
def test_bandwidths_of_another_shape_or_not_finite_are_refused(rows, theta):
    with pytest.raises(ValueError, match=r"expected finite values of shape \(4, 2\)"):
        fit_lab_rbf(KEY, *rows, TINY, state=FitState(np.arange(4), theta, 0, []))


def test_one_row_is_a_constant(rows):
    with pytest.warns(UserWarning, match="1 distinct"):
        model, _ = fit_lab_rbf(KEY, rows[0][:1], rows[1][:1], TINY)
    np.testing.assert_allclose(predict(model, rows[0]), rows[1][0], rtol=1e-6)


def test_integers_are_cast(rows):
    x = (100 * rows[0]).astype(np.int64)
    model, _ = fit_lab_rbf(KEY, x, (10 * rows[1]).astype(np.int32), TINY)
    assert model.theta.dtype == np.float32
