"""Fisher forgetting, influence, SSD and NTK against dense algebra and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.importance import row_diagonal
from clujax.errors import RequestError
from clujax.models import from_apply
from clujax.unlearning import Request, fisher_forgetting, influence, ntk, ssd, unlearn
from clujax.unlearning.methods.fisher_forgetting import add_noise, noise_deviation
from clujax.unlearning.methods.influence import influence_direction, official_direction
from clujax.unlearning.methods.ntk import tangent_weights
from clujax.unlearning.methods.ssd import ssd_dampen

KEY = jax.random.key(4)


def linear_request(dtype=jnp.float32, rows=30):
    """A softmax regression of 3 inputs and 4 classes, trained by no one."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 3)).astype(np.float32), (np.arange(rows) % 4).astype(np.int32)
    part = lambda chosen: {"x": x[chosen], "y": y[chosen]}
    apply = lambda params, inputs: inputs.astype(dtype) @ params["w"].astype(dtype)
    params = {"w": jnp.asarray(rng.normal(size=(3, 4)), dtype)}
    return Request(from_apply(apply), params, {}, part(slice(0, 6)), part(slice(6, None)), 4)


def row_gradients(request, rows):
    """[n, P] by the closed form x ⊗ (p − e_y)."""
    logits = rows["x"] @ np.asarray(request.params["w"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return np.einsum("ni,nc->nic", rows["x"], p - np.eye(4)[rows["y"]]).reshape(len(rows["y"]), -1), p


# Influence.


def test_exact_direction_is_the_dense_inverse(x64):
    rng = np.random.default_rng(1)
    for rows, width in ((20, 50), (50, 20), (1, 7)):
        g, v = rng.normal(size=(rows, width)), rng.normal(size=width)
        expected = np.linalg.solve(np.eye(width) + g.T @ g / rows, v)
        np.testing.assert_allclose(influence_direction(jnp.array(g), jnp.array(v)), expected, rtol=1e-10)


def test_official_recursion_is_the_published_loop(x64):
    rng = np.random.default_rng(2)
    g, v = rng.normal(size=(30, 12)), rng.normal(size=12)
    o, k, n = g[0].copy(), v.copy(), len(g)
    for row in g[1:]:
        t = o @ row
        k -= (k @ row) / (n + t) * o
        o -= t / (n + t) * o
    np.testing.assert_allclose(official_direction(jnp.array(g), jnp.array(v)), k, rtol=1e-10)
    exact = influence_direction(jnp.array(g), jnp.array(v))
    assert np.linalg.norm(k - exact) > 0.1 * np.linalg.norm(exact)  # it is another vector


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_influence_is_one_newton_step_by_dense_algebra(dtype):
    request = linear_request(dtype)
    forget, _ = row_gradients(request, request.forget)
    remain, _ = row_gradients(request, request.remain)
    v = forget.sum(0) / 30 - 6 / (30 * 24) * remain.sum(0)
    step = np.linalg.solve(np.eye(12) + remain.T @ remain / 24, v).reshape(3, 4)
    outcome = unlearn(influence(scale=2.0, rows=100), request, key=KEY)
    assert outcome.params["w"].dtype == dtype
    expected = np.asarray(request.params["w"], np.float64) + 2 * step
    np.testing.assert_allclose(
        np.asarray(outcome.params["w"], np.float64), expected, atol=1e-5 if dtype == jnp.float32 else 0.02
    )


def test_influence_of_scale_0_is_the_identity_and_a_small_step_forgets(stateless, losses):
    still = unlearn(influence(scale=0.0, rows=10), stateless, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, still.params, stateless.params)
    rows = {name: stateless.forget[name] for name in ("x", "y")}
    outcome = unlearn(influence(scale=1.0, rows=50), stateless, key=KEY)
    assert jnp.mean(losses(stateless, outcome.params, rows)) > jnp.mean(losses(stateless, stateless.params, rows))


# Fisher forgetting.


def test_the_exact_fisher_is_the_expectation_over_labels():
    """F = mean over rows of Σ_y p_y (x ⊗ (p − e_y))², by a loop over rows and labels."""
    request = linear_request()
    _, p = row_gradients(request, request.remain)
    expected = np.zeros((3, 4))
    for x, chances in zip(request.remain["x"], p, strict=True):
        for y in range(4):
            expected += chances[y] * np.outer(x, chances - np.eye(4)[y]) ** 2 / 24
    np.testing.assert_allclose(row_diagonal(request, request.remain, kind="exact", key=KEY)["w"], expected, rtol=1e-4)


def test_golatkar_deviation_by_a_loop():
    """Capped, averaged over a kernel's inputs at each place, tenfold on the last layer and on vectors."""
    rng = np.random.default_rng(3)
    fisher = {
        "conv": {"kernel": 10.0 ** rng.uniform(-5, 1, (2, 2, 3, 5)), "bias": 10.0 ** rng.uniform(-5, 1, 5)},
        "head": {"kernel": 10.0 ** rng.uniform(-5, 1, (5, 4)), "bias": 10.0 ** rng.uniform(-5, 1, 4)},
    }
    found = noise_deviation(jax.tree.map(jnp.asarray, fisher), 1e-6, form="golatkar", head=("head",))
    for layer, cap in (("conv", 1e3), ("head", 1e2)):
        kernel, bias = fisher[layer]["kernel"], fisher[layer]["bias"]
        variance = 1e-6 * np.minimum(1 / (kernel + 1e-8), cap)
        for index in np.ndindex(kernel.shape):
            mean = np.mean([variance[(*index[:-2], i, index[-1])] for i in range(kernel.shape[-2])])
            expected = np.sqrt(mean * (10 if layer == "head" else 1))
            assert float(found[layer]["kernel"][index]) == pytest.approx(expected, rel=1e-4)
        expected = np.sqrt(10 * 1e-6 * np.minimum(1 / (bias + 1e-8), cap))
        np.testing.assert_allclose(found[layer]["bias"], expected, rtol=1e-4)


def test_empirical_deviation_by_a_formula():
    fisher = {"body": jnp.array([0.0, 1e-6, 1.0]), "head": jnp.array([[1e-3, 1e3]])}
    found = noise_deviation(fisher, 1e-7, form="empirical", head=("head",))
    np.testing.assert_allclose(found["body"], [1e-3, 1e-3, np.sqrt(1e-7)], rtol=1e-5)
    np.testing.assert_allclose(found["head"], [[1e-2, 10 * np.sqrt(1e-10)]], rtol=1e-5)


@pytest.mark.parametrize("form", ["golatkar", "empirical"])
def test_no_strength_is_the_identity(stateless, form):
    outcome = unlearn(fisher_forgetting(strength=0.0, form=form, max_rows=10), stateless, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, outcome.params, stateless.params)


def test_whole_classes_reset_their_column_of_the_head(whole_class):
    outcome = unlearn(fisher_forgetting(strength=0.0, max_rows=10), whole_class, key=KEY)
    head, before = (np.asarray(p["head"]["kernel"]) for p in (outcome.params, whole_class.params))
    np.testing.assert_array_equal(head[:, :3], before[:, :3])
    assert 0.003 < np.std(head[:, 3]) < 0.03  # variance 1e-4 from 32 draws
    assert abs(float(outcome.params["head"]["bias"][3])) < 0.05
    kept = unlearn(fisher_forgetting(strength=0.0, max_rows=10, reset_class=False), whole_class, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, kept.params, whole_class.params)


def test_noise_has_its_deviation_and_its_dtype():
    """20,000 weights a leaf; two leaves of one shape get different noise."""
    params = {"a": jnp.zeros(20_000), "b": jnp.zeros(20_000), "c": jnp.ones(4, jnp.bfloat16)}
    noisy = add_noise(KEY, params, {"a": jnp.float32(2.0), "b": jnp.float32(2.0), "c": jnp.float32(0.1)})
    assert float(jnp.std(noisy["a"])) == pytest.approx(2.0, rel=0.03)
    assert abs(float(jnp.mean(noisy["a"]))) < 0.06
    assert abs(np.corrcoef(noisy["a"], noisy["b"])[0, 1]) < 0.04
    assert noisy["c"].dtype == jnp.bfloat16


# SSD.


def test_ssd_edit_by_a_loop(x64):
    rng = np.random.default_rng(4)
    params, whole, forget = rng.normal(size=40), rng.uniform(0, 1, 40), rng.uniform(0, 4, 40)
    whole[0] = forget[0] = forget[1] = whole[2] = 0.0
    found = ssd_dampen(*map(jnp.asarray, (params, whole, forget)), selection=2.0, dampening=0.8)
    for j in range(40):
        edited = params[j] * min(0.8 * whole[j] / forget[j], 1.0) if forget[j] > 2.0 * whole[j] else params[j]
        assert float(found[j]) == pytest.approx(edited, rel=1e-12)


def test_ssd_that_selects_nothing_is_the_identity(stateless):
    outcome = unlearn(ssd(selection=float("inf"), batch_size=32), stateless, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, outcome.params, stateless.params)
    assert outcome.facts["density"]["total"] == 0


def test_ssd_importances_are_squared_gradients_of_rows():
    """With importances of rows the edit follows from the closed form of a softmax regression."""
    request = linear_request()
    gradients = [row_gradients(request, rows)[0] for rows in (request.forget, request.remain)]
    forget, whole = (np.mean(g**2, 0).reshape(3, 4) for g in (gradients[0], np.concatenate(gradients)))
    outcome = unlearn(ssd(selection=0.7, dampening=0.5, fisher="example", batch_size=7), request, key=KEY)
    chosen = forget > 0.7 * whole
    assert 0 < chosen.sum() < 12
    expected = np.where(chosen, request.params["w"] * np.minimum(0.5 * whole / forget, 1), request.params["w"])
    np.testing.assert_allclose(outcome.params["w"], expected, rtol=1e-4)


# NTK.


def ridge(x, y, start, penalty):
    """Weights nearest to `start` in the sense of ‖xw − y‖² + penalty ‖w − start‖²."""
    return start + np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - x @ start))


def test_tangent_weights_of_a_linear_model_are_ridge_regression(x64):
    rng = np.random.default_rng(5)
    x, y, w = rng.normal(size=(15, 6)), rng.normal(size=(15, 2)), rng.normal(size=(6, 2))
    found = tangent_weights(lambda p: jnp.asarray(x) @ p, jnp.asarray(w), jnp.asarray(y), 0.3)
    np.testing.assert_allclose(w + found, ridge(x, y, w, 0.3), rtol=1e-7)


def test_ntk_from_the_start_retrains_a_linear_model():
    """Trained to the ridge optimum on all rows, moved by w(D_r) − w(D): the ridge optimum on the remaining rows."""
    request = linear_request()
    start = np.asarray(request.params["w"], np.float64)
    x, y = (np.concatenate([request.forget[n], request.remain[n]]) for n in ("x", "y"))
    trained = ridge(x, np.eye(4)[y], start, 0.01 * 30)
    given = request._replace(params={"w": jnp.asarray(trained, jnp.float32)}, initial=request.params)
    outcome = unlearn(ntk(ridge=0.01, around="initial", iterations=200), given, key=KEY)
    expected = ridge(request.remain["x"], np.eye(4)[request.remain["y"]], start, 0.01 * 24)
    assert np.abs(expected - trained).max() > 0.01
    np.testing.assert_allclose(outcome.params["w"], expected, atol=2e-5)


def test_ntk_refuses_what_it_cannot_hold(stateless):
    with pytest.raises(RequestError, match="max_rows=100"):
        unlearn(ntk(max_rows=100), stateless, key=KEY)
    still = unlearn(ntk(scale=0.0, iterations=2), stateless, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, still.params, stateless.params)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (influence, {"scale": -1.0}),
        (influence, {"scale": float("nan")}),
        (fisher_forgetting, {"strength": float("nan")}),
        (fisher_forgetting, {"max_rows": 0}),
        (ssd, {"dampening": -0.1}),
        (ssd, {"selection": float("nan")}),
        (ntk, {"scale": float("nan")}),
        (ntk, {"ridge": float("nan")}),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)
