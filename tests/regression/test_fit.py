import jax
import numpy as np
import pytest

from clujax.geometry.kernels import gaussian
from clujax.regression import selection
from clujax.regression.bandwidths import Objective, train_bandwidths
from clujax.regression.fit import FitOptions, FitState, fit_lab_rbf, predict
from clujax.regression.report import sparsity_report

SMALL = FitOptions(n_max=24, n_init=4, grow_steps=20, final_steps=20, batch_size=16)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (90, 3))
    return x, np.sin(3 * x[:, 0]) + x[:, 1] ** 2


def test_fit_learns_with_distinct_rows_and_few_compiles(rows):
    x, y = rows
    before = train_bandwidths._cache_size()
    model, state = fit_lab_rbf(KEY, x, y, SMALL)
    assert train_bandwidths._cache_size() - before <= 2
    assert [r["n"] for r in state.history] == [4, 14, 24, 24] or state.history[0]["n"] == 5
    assert len(np.unique(state.support)) == 24
    assert np.mean((predict(model, x) - y) ** 2) < 0.1 * np.var(y)
    report = sparsity_report(model, x, y, SMALL.ridge)
    assert report["support_error"] == pytest.approx(report["ridge_alpha"], rel=2e-2)
    assert report["n_support"] == 24


def test_selection_does_not_know_the_unit_of_the_target(rows):
    x, y = rows
    one, first = fit_lab_rbf(KEY, x, y, SMALL)
    other, second = fit_lab_rbf(KEY, x, 1024 * y + 7, SMALL)
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_allclose(predict(other, x), 1024 * predict(one, x) + 7, rtol=1e-3, atol=0.5)
    published = SMALL._replace(grow=selection.published_rule)
    assert len(np.unique(fit_lab_rbf(KEY, x, 1024 * y + 7, published)[1].support)) < 24


def test_resumed_fit_equals_unbroken(rows):
    x, y = rows
    states: list[FitState] = []
    _, whole = fit_lab_rbf(KEY, x, y, SMALL, callback=states.append)
    _, resumed = fit_lab_rbf(KEY, x, y, SMALL, state=states[0])
    np.testing.assert_array_equal(resumed.theta, whole.theta)
    assert resumed.history == whole.history


def test_two_devices_equal_one(rows):
    x, y = rows
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    one, first = fit_lab_rbf(KEY, x, y, SMALL)
    two, second = fit_lab_rbf(KEY, x, y, SMALL, mesh=mesh)
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_allclose(two.theta, one.theta, atol=1e-4)
    np.testing.assert_allclose(predict(one, x, mesh=mesh), predict(one, x), atol=1e-5)


@pytest.mark.parametrize("block_size", [7, 64, 1000])
def test_blocks_do_not_change_predictions(rows, block_size):
    model, _ = fit_lab_rbf(KEY, *rows, SMALL)
    np.testing.assert_allclose(predict(model, rows[0], block_size=block_size), predict(model, rows[0]), atol=1e-6)


def test_tolerance_stops_growth(rows):
    _, state = fit_lab_rbf(KEY, *rows, SMALL._replace(tol_mse=1e3))
    assert [r["n"] for r in state.history] == [len(state.support)] == [5]


def test_limits_of_the_bandwidth(x64, rows):
    x, y = rows
    none = SMALL._replace(grow_steps=0, final_steps=0, n_max=4, scale_y=False, dtype=np.float64)
    narrow, state = fit_lab_rbf(KEY, x, y, none._replace(bandwidth=1e9), support=np.arange(4))
    mean = y[state.support].mean()
    np.testing.assert_allclose(narrow.coef, (y[:4] - mean) / 1.001, atol=1e-12)
    np.testing.assert_allclose(predict(narrow, x[4:]), mean, atol=1e-12)
    wide, _ = fit_lab_rbf(KEY, x, y, none._replace(bandwidth=1e-16, ridge=0.1), support=np.arange(4))
    np.testing.assert_allclose(predict(wide, x), mean, atol=1e-6)
    single, _ = fit_lab_rbf(KEY, x[:1], y[:1], none._replace(n_max=1))
    np.testing.assert_allclose(predict(single, x), y[0])


def test_float64_ridgeless_interpolates(x64, rows):
    x, y = rows
    model, state = fit_lab_rbf(KEY, x, y, SMALL._replace(ridge=0.0, dtype=np.float64))
    np.testing.assert_allclose(predict(model, x[state.support]), y[state.support], atol=1e-8)


def test_growth_sizes_and_first_choice():
    sizes = [118]
    while step := selection.growth_size(sizes[-1], 350):
        sizes.append(sizes[-1] + step)
    assert sizes == [118, 129, 141, 155, 170, 187, 205, 225, 247, 271, 298, 327, 350]
    target = np.array([0.0, 5, 1, 4, 4, 3])
    pool = selection.Pool(np.zeros(6), target, target, np.array([0, 1, 2, 3, 3, 4]), np.array([1]))
    np.testing.assert_array_equal(selection.largest_residual(np.random.default_rng(0), pool, 2), [3, 5])


def test_constant_target_and_constant_feature(rows):
    x = np.column_stack([rows[0], np.ones(90)])
    model, _ = fit_lab_rbf(KEY, x, np.full(90, 3), SMALL)
    np.testing.assert_allclose(predict(model, x), 3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ridge": -1.0}, "ridge is -1"),
        ({"n_init": 0}, "n_init 0"),
        ({"bandwidth": 0.0}, "stationary"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"dtype": np.float64}, "enable_x64"),
        ({"dtype": np.int32}, "expected float32"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options(rows, change, match):
    with pytest.raises(ValueError, match=match):
        fit_lab_rbf(KEY, *rows, SMALL._replace(**change))


def test_bad_rows(rows):
    x, y = rows
    nan = x.copy()
    nan[0, 0] = np.nan
    for a, b, match in ((nan, y, "x contains NaN"), (x, np.full(90, np.inf), "y contains"), (x[:, 0], y, "x has shape"),
                        (x[:0], y[:0], "x has shape"), (x, y[:3], "y has shape"), (x.astype(str), y, "dtype")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            fit_lab_rbf(KEY, a, b, SMALL)
    with pytest.raises(ValueError, match="row numbers"):
        fit_lab_rbf(KEY, x, y, SMALL, support=np.array([90]))
    twice = np.concatenate([x, x[:1]])
    with pytest.raises(ValueError, match="interpolation is impossible"):
        fit_lab_rbf(KEY, twice, np.append(y, 9.0), SMALL._replace(ridge=0.0), support=np.array([0, 90]))
    with pytest.warns(UserWarning, match="equal rows"):
        fit_lab_rbf(KEY, twice, np.append(y, 9.0), SMALL, support=np.array([0, 90]))
    with pytest.warns(UserWarning, match="10 distinct rows"):
        model, _ = fit_lab_rbf(KEY, np.tile(x[:10], (2, 1)), np.tile(y[:10], 2), SMALL)
    assert len(model.coef) == 10
    with pytest.raises(ValueError, match="3 features"):
        predict(model, np.zeros((2, 5)))


def test_gaussian_profile_and_many_outputs(rows):
    x, y = rows
    options = SMALL._replace(objective=Objective(gaussian), ridge=1e-2)
    model, _ = fit_lab_rbf(KEY, x.astype(np.float16), np.stack([y, -y], 1), options)
    prediction = predict(model, x)
    np.testing.assert_allclose(prediction[:, 0], -prediction[:, 1], atol=1e-3)
