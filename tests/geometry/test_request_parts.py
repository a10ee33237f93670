"""The parts of a request that learns and forgets: error orders, dense products, limits and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from clujax.geometry import Shares, decompose, displacement, kl, norm, remain_newton, report, request_parts

SHARES = Shares(learn=60, forget=30, remain=200)
STEPS = np.array([1.0, 0.3, 0.1, 0.03, 0.01])  # s: ε_l = 1−s, ε_f = s
SETS = {"learn": slice(200, 260), "forget": slice(260, 290), "remain": slice(200)}


def relative(a, b):
    return float(norm(a - b) / norm(b))


class Problem:
    """Softmax regression on 200 remaining, 60 learned and 30 forgotten rows, ridge 1e-2; minima found to rounding."""

    ridge = 1e-2

    def __init__(self):
        rng = np.random.default_rng(0)
        x, truth = rng.normal(size=(290, 4)), rng.normal(size=(4, 3))
        y = np.argmax(x @ truth + rng.gumbel(size=(290, 3)), 1)
        self.x, self.y = ({name: jnp.asarray(a[rows]) for name, rows in SETS.items()} for a in (x, y))
        self.newton_step = jax.jit(self._newton_step)
        self.star = self.minimum(0.0)
        self.parts = jax.jit(self._parts)
        losses = (self.learn, self.forget, self.remain)
        self.gradients = jax.jit(lambda w: [jax.grad(loss)(w).ravel() for loss in losses])
        self.hessians = jax.jit(lambda w: [jax.hessian(loss)(w).reshape(12, 12) for loss in losses])

    def ce(self, w, name):
        logits = self.x[name] @ w
        return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), self.y[name][:, None], 1))

    def learn(self, w):
        return self.ce(w, "learn")

    def forget(self, w):
        return self.ce(w, "forget")

    def remain(self, w):
        return self.ce(w, "remain") + 0.5 * self.ridge * jnp.sum(w**2)

    def _newton_step(self, w, s):
        total = lambda p: self.remain(p) + (1 - s) * self.learn(p) + s * self.forget(p)
        return w - jnp.linalg.solve(jax.hessian(total)(w).reshape(12, 12), jax.grad(total)(w).ravel()).reshape(4, 3)

    def minimum(self, s):
        w = jnp.zeros((4, 3))
        for _ in range(15):
            w = self.newton_step(w, s)
        return w

    def arguments(self, s, w):
        return (lambda p: s * self.learn(p), lambda p: s * self.forget(p), self.remain, w)

    def _parts(self, w, s):
        plain = {"plain_learn_loss": self.learn, "plain_forget_loss": self.forget}
        return request_parts(*self.arguments(s, w), damping=0.0, shares=SHARES, reference=self.star, **plain)

    def divergence(self, name, w):
        """Σ KL over rows from the oracle's outputs to those of w."""
        return jnp.sum(kl(self.x[name] @ self.star, self.x[name] @ w))


@functools.cache
def _problem():
    return Problem()


@pytest.fixture
def problem(x64):
    return _problem()


def test_the_displacement_and_the_forget_part_err_linearly_in_what_is_left_to_do(problem):
    @jax.jit
    def errors(w, s):
        plain = {"plain_learn_loss": problem.learn, "reference": problem.star}
        found, true = displacement(*problem.arguments(s, w), damping=0.0, **plain), w - problem.star
        gradient = jax.grad(lambda p: problem.divergence("forget", p))(w)
        salient = problem.parts(w, s).salient
        return norm(found - true) / norm(true), norm(salient - gradient) / norm(gradient)

    found = np.array([errors(problem.minimum(s), s) for s in STEPS])
    # other rows than the published ones, so of their magnitude
    magnitudes = found[:, 0] / [7.0e-2, 2.0e-2, 6.6e-3, 2.0e-3, 6.6e-4]
    assert 1 / 3 < magnitudes.min() <= magnitudes.max() < 3
    slopes = found / STEPS[:, None]
    np.testing.assert_allclose(slopes[2:], slopes[-1:].repeat(3, 0), rtol=0.2)
    np.testing.assert_allclose(slopes[0], slopes[-1], rtol=0.5)


def test_without_plain_losses_the_weights_spoil_the_curvature_and_the_linear_order(problem):
    w = problem.minimum(0.01)
    find = jax.jit(lambda w: displacement(*problem.arguments(0.01, w), damping=0.0, reference=problem.star))
    found = find(w)
    assert relative(found, w - problem.star) > 0.05


def test_the_descents_on_remaining_and_learned_rows_are_the_gradient_of_their_divergence(problem):
    gradient = jax.jit(jax.grad(lambda p: problem.divergence("remain", p) + problem.divergence("learn", p)))
    for s in (1.0, 0.1):  # not a matter of being close
        w = problem.minimum(s)
        parts = problem.parts(w, s)
        exact = gradient(w) + problem.ridge * (w - problem.star)
        np.testing.assert_allclose(parts.remain + parts.learn, exact, rtol=0, atol=1e-12)


def test_the_learning_push_and_the_ascent_balance_the_joint_descent_at_a_point_of_the_path(problem):
    w, s = problem.minimum(0.3), 0.3
    parts = problem.parts(w, s)
    push = s * parts.learn + parts.forget
    np.testing.assert_allclose(push, parts.remain + parts.learn, rtol=0, atol=1e-11)


def test_parts_of_weighted_losses_are_the_dense_products(problem):
    w, s, damping = problem.star + 0.1, 0.4, 0.5
    plain = {"plain_learn_loss": problem.learn, "plain_forget_loss": problem.forget}
    parts = jax.jit(
        lambda w: request_parts(*problem.arguments(s, w), damping=damping, shares=SHARES, rate=2.0, **plain)
    )(w)
    (learn, forget, remain), (h_learn, h_forget, h_remain) = problem.gradients(w), problem.hessians(w)
    push, floor = s * learn - s * forget, damping * np.eye(12)
    moved = np.linalg.solve(h_remain + h_learn + floor, push)
    plasticity = 60 / 290 * h_learn @ moved + 30 / 290 * h_forget @ moved
    expected = {
        "learn": learn,
        "forget": -s * forget,
        "remain": remain,
        "salient": h_forget @ moved,
        "newton": np.linalg.solve(h_remain + floor, push),
        "preserving": np.linalg.solve((200 / 290 + 1 / 2.0) * (h_remain + floor), plasticity),
    }
    errors = {name: relative(getattr(parts, name).ravel(), dense) for name, dense in expected.items()}
    assert max(errors.values()) < 1e-8, errors


def test_the_preserving_part_is_the_minimiser_of_the_quadratic_model(problem):
    w, rate = problem.minimum(0.3), 0.7
    parts = request_parts(
        *problem.arguments(0.3, w),
        damping=0.0,
        shares=Shares(learn=0.2, forget=0.1, remain=0.7),
        rate=rate,
        reference=problem.star,
        plain_learn_loss=problem.learn,
        plain_forget_loss=problem.forget,
    )
    metric = problem.hessians(w)[2]
    learn, forget, remain = problem.hessians(problem.star)
    pushes = problem.gradients(w)
    moved = np.linalg.solve(remain + learn, 0.3 * (pushes[0] - pushes[1]))
    pull = (0.2 * learn + 0.1 * forget) @ moved

    def model(step):  # the divergence of remaining rows from θ stands for that from the oracle
        return pull @ step + 0.5 * (0.7 + 1 / rate) * step @ metric @ step

    zero = jnp.zeros(12)
    best = -jnp.linalg.solve(jax.hessian(model)(zero), jax.grad(model)(zero))
    assert relative(-parts.preserving.ravel(), best) < 1e-8


def test_the_preserving_part_is_the_step_under_the_remaining_divergence(problem):
    p_learn, p_forget, p_remain = (n / 290 for n in SHARES)

    def objective(p, w, rate):
        at, q = problem.x["remain"] @ w, problem.x["remain"] @ p
        metric = jnp.sum(kl(at, q)) + 0.5 * problem.ridge * jnp.sum((p - w) ** 2)
        kept = (p_remain + 1 / rate) * metric
        return p_learn * problem.divergence("learn", p) + p_forget * problem.divergence("forget", p) + kept

    @jax.jit
    def newton_step(p, w, rate):
        curvature = jax.hessian(objective)(p, w, rate).reshape(12, 12)
        return p - jnp.linalg.solve(curvature, jax.grad(objective)(p, w, rate).ravel()).reshape(4, 3)

    @jax.jit
    def full(w, s):
        return problem.parts(w, s).preserving

    def error(s):  # a rate that shrinks with s, so that the learning divergence is of first order too
        w = problem.minimum(s)
        exact = w
        for _ in range(8):
            exact = newton_step(exact, w, s)
        return relative(-full(w, s) * p_remain / (p_remain + 1 / s), exact - w)

    errors = np.array([error(s) for s in (0.1, 0.03, 0.01)])
    assert errors[0] < 0.1
    np.testing.assert_allclose(errors / [0.1, 0.03, 0.01], errors[-1] / 0.01, rtol=0.3)


@pytest.mark.parametrize("referred", [False, True])
def test_without_rows_to_learn_the_parts_are_those_of_decompose(problem, referred):
    w = problem.star + 0.1
    reference, weighted = problem.star if referred else None, lambda p: 0.3 * problem.forget(p)
    shared = {"damping": 0.5, "reference": reference}
    old = decompose(weighted, problem.remain, w, curvature_loss=problem.forget, **shared)
    new = request_parts(
        None, weighted, problem.remain, w, shares=SHARES, rate=2.0, plain_forget_loss=problem.forget, **shared
    )
    for name in old._fields:
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name), err_msg=name)
    assert float(norm(new.learn)) == 0
    # Huang et al. 2024, Proposition 2; rows to learn are no part of the shares
    gain = 2.0 * (30 / 230) / (2.0 * 200 / 230 + 1)
    step = gain * remain_newton(problem.remain, w, old.salient, damping=0.5)
    np.testing.assert_allclose(new.preserving, step, rtol=1e-9)


def test_without_rows_to_forget_the_parts_are_a_joint_descent(problem):
    w = problem.minimum(0.0) + 0.1
    parts = request_parts(problem.learn, None, problem.remain, w, damping=0.5, shares=SHARES)
    joint = jax.grad(lambda p: problem.remain(p) + problem.learn(p))(w)
    np.testing.assert_allclose(parts.remain + parts.learn, joint, rtol=1e-12)
    assert float(norm(parts.forget)) == float(norm(parts.salient)) == 0
    pushed = remain_newton(problem.remain, w, parts.learn, damping=0.5)
    np.testing.assert_allclose(parts.newton, pushed, rtol=1e-12)
    # 60 of 260 rows
    moved = displacement(problem.learn, None, problem.remain, w, damping=0.5)
    pull = jax.jvp(jax.grad(problem.learn), (w,), (moved,))[1]
    expected = 60 / 200 * remain_newton(problem.remain, w, pull, damping=0.5)
    np.testing.assert_allclose(parts.preserving, expected, rtol=1e-7)


def test_only_the_ratios_of_the_shares_count_and_the_rate_saturates(problem):
    w = problem.star + 0.1

    @jax.jit
    def preserving(shares, rate):
        losses = (problem.learn, problem.forget, problem.remain)
        return request_parts(*losses, w, damping=0.5, shares=shares, rate=rate).preserving

    full = preserving(SHARES, jnp.inf)
    np.testing.assert_allclose(preserving(Shares(6.0, 3.0, 20.0), jnp.inf), full, rtol=1e-12)
    np.testing.assert_allclose(preserving(SHARES, 1e12), full, rtol=1e-10)
    np.testing.assert_allclose(preserving(SHARES, 1e-9) / 1e-9, full * 200 / 290, rtol=1e-7)


def test_report_has_the_norm_of_each_part_and_the_cosine_of_each_pair(problem):
    numbers = report(problem.parts(problem.minimum(0.3), 0.3))
    assert len(numbers) == 6 + 15
    assert {"norm/learn", "norm/preserving", "cosine/learn·forget", "cosine/newton·preserving"} <= numbers.keys()
    assert all(np.isfinite(list(numbers.values())))
    alone = request_parts(None, problem.forget, problem.remain, problem.star, damping=0.5, shares=SHARES)
    assert report(alone)["cosine/learn·forget"] == 0


def test_parts_of_a_float32_network_are_trees_like_it_and_the_dense_products():
    rng = np.random.default_rng(0)
    params = {
        "first": {"w": jnp.asarray(0.5 * rng.normal(size=(3, 8)), jnp.float32), "b": jnp.zeros(8, jnp.float32)},
        "head": jnp.asarray(0.5 * rng.normal(size=(8, 4)), jnp.float32),
    }
    x, y = jnp.asarray(rng.normal(size=(48, 3)), jnp.float32), jnp.asarray(rng.integers(0, 4, 48))

    def loss(rows):
        def ce(p):
            logits = jnp.tanh(x[rows] @ p["first"]["w"] + p["first"]["b"]) @ p["head"]
            return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), y[rows][:, None], 1)) / 48

        return ce

    losses = [loss(slice(start, start + 16)) for start in (0, 16, 32)]

    def parts(p):
        return request_parts(*losses, p, damping=0.5, shares=Shares(16, 16, 16))

    found = jax.jit(parts)(params)
    for part in found:
        assert jax.tree.map(lambda a: (a.shape, a.dtype), part) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    flat, unflatten = ravel_pytree(params)
    curvatures = jax.jit(lambda v: [jax.hessian(lambda v, f=f: f(unflatten(v)))(v) for f in losses])(flat)
    found = found._make(np.asarray(ravel_pytree(part)[0], np.float64) for part in found)
    learn, forget, remain = (np.asarray(curvature, np.float64) for curvature in curvatures)
    push, floor = found.learn + found.forget, 0.5 * np.eye(flat.size)
    moved = np.linalg.solve(remain + learn + floor, push)
    assert relative(found.salient, forget @ moved) < 1e-3
    assert relative(found.newton, np.linalg.solve(remain + floor, push)) < 1e-3
    assert relative(found.preserving, np.linalg.solve(remain + floor, (learn + forget) @ moved)) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learn_loss": None, "forget_loss": None}, "at least one"),
        ({"learn_loss": None, "plain_learn_loss": jnp.sum}, "plain_learn_loss is given but learn_loss is None"),
        ({"forget_loss": None, "plain_forget_loss": jnp.sum}, "plain_forget_loss is given but forget_loss is None"),
        ({"shares": Shares(1, 1, 0)}, "remaining rows, more than 0"),
        ({"shares": Shares(-1, 1, 1)}, "at least 0"),
        ({"rate": 0.0}, "expected α > 0"),
    ],
)
def test_a_request_without_sense_is_refused(change, message):
    loss = lambda w: jnp.sum(w**2)
    given = {"learn_loss": loss, "forget_loss": loss, "remain_loss": loss, "params": jnp.ones(2)}
    with pytest.raises(ValueError, match=message):
        request_parts(**(given | {"damping": 0.1, "shares": Shares(1, 1, 1)} | change))
