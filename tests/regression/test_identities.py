"""What must hold of a whole fitted model, whatever was trained."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.kernel_ridge import KernelRidge

from clujax.geometry.kernels import gaussian, lab_gram, lab_kernel, laplacian
from clujax.regression import (
    FitOptions,
    Objective,
    bandwidth_loss,
    fit_coefficients,
    fit_lab_rbf,
    predict,
    regression_metrics,
)
from clujax.regression.fit import _evaluate

KEY = jax.random.key(0)
WIDE = FitOptions(n_max=20, n_init=8, grow_steps=10, final_steps=10, batch_size=16, dtype=np.float64)


@pytest.fixture
def rows():
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (60, 3))
    return x, np.cos(2 * x[:, 0]) * x[:, 1] + 0.1 * x[:, 2]


def test_equal_anisotropic_rows_are_an_ard_kernel(x64, rows):
    x, y = rows
    theta = np.array([0.5, 2.0, 1.0])
    theirs = KernelRidge(kernel="rbf", gamma=1.0, alpha=0.02).fit(x * theta, y)
    tiled = np.tile(theta, (60, 1))
    ours = fit_coefficients(lab_gram(x, tiled, profile=gaussian), y, 0.02, fit_intercept=False)
    kernel = lab_kernel(x + 0.1, x, tiled, profile=gaussian)
    np.testing.assert_allclose(kernel @ ours.coef, theirs.predict((x + 0.1) * theta), atol=1e-10)


def test_an_affine_map_of_the_target_maps_the_predictions(x64, rows):
    x, y = rows
    one, two = (fit_lab_rbf(KEY, x, target, WIDE)[0] for target in (y, 3.5 * y + 11))
    np.testing.assert_allclose(predict(two, x), 3.5 * predict(one, x) + 11, atol=1e-6)


def test_translation_and_scale_of_the_inputs_change_nothing(x64, rows):
    x, y = rows
    one, first = fit_lab_rbf(KEY, x, y, WIDE)
    two, second = fit_lab_rbf(KEY, 8 * x + 3, y, WIDE)
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_allclose(predict(two, 8 * x + 3), predict(one, x), atol=1e-8)


def test_the_order_of_the_support_changes_nothing(x64, rows):
    x, y = rows
    none = WIDE._replace(grow_steps=0, final_steps=0, n_max=8)
    order = np.random.default_rng(0).permutation(8)
    one, two = (fit_lab_rbf(KEY, x, y, none, support=support)[0] for support in (np.arange(8), order))
    np.testing.assert_allclose(two.coef, one.coef[order], atol=1e-10)
    np.testing.assert_allclose(predict(one, x), predict(two, x), atol=1e-10)


@pytest.mark.parametrize("profile", [gaussian, laplacian])
def test_the_loss_is_differentiable_where_rows_coincide(x64, rows, profile):
    x, y = rows
    theta = np.random.default_rng(1).uniform(0.5, 2, (6, 3))
    loss = lambda theta: bandwidth_loss(theta, x[:6], y[:6], x[:12], y[:12], 1e-2, Objective(profile))
    check_grads(loss, (theta,), order=1, modes=("rev",), rtol=1e-6, atol=1e-6)
    assert np.isfinite(jax.grad(loss)(theta)).all()


def test_one_minus_rsse_of_the_whole_set_is_r2(rows):
    x, y = rows
    found = predict(fit_lab_rbf(KEY, x, y, WIDE._replace(dtype=np.float32))[0], x)
    from sklearn.metrics import mean_absolute_error, r2_score

    told = regression_metrics(found, y)
    assert told["r2"] == pytest.approx(r2_score(y, found), abs=1e-12)
    assert told["mae"] == pytest.approx(mean_absolute_error(y, found), abs=1e-12)


def test_memory_of_a_block_does_not_hold_rows_times_points_times_features(rows):
    """At 512 points, 20 features and blocks of 4096 rows: some kernel matrices, not 160 MB of differences."""
    model, _ = fit_lab_rbf(KEY, *rows, WIDE._replace(dtype=np.float32))
    shape = lambda *size: jax.ShapeDtypeStruct(size, np.float32)
    large = model.replace(
        support_x=shape(512, 20),
        theta=shape(512, 20),
        coef=shape(512),
        x_scaling=model.x_scaling._make([shape(20)] * 2),
    )
    compiled = _evaluate.lower(large, shape(4096, 20), shape(512)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
