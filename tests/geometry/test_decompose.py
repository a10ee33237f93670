"""The identities of the fast–slow update and the error orders of the gradient's parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.geometry import (
    cosine,
    decompose,
    inner,
    kl,
    norm,
    remain_gauss_newton,
    remain_newton,
    report,
)

EIGENVALUES = np.array([0.02, 0.1, 0.5, 1.0, 3.0, 8.0])


@pytest.fixture
def bowl(x64):
    """A quadratic remaining loss in a rotated basis: (loss, H, centre, forget gradient)."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    hessian, centre = jnp.asarray(basis * EIGENVALUES @ basis.T), jnp.arange(6.0)
    return lambda w: 0.5 * (w - centre) @ hessian @ (w - centre), hessian, centre, jnp.asarray(basis @ np.ones(6))


def fast_slow(loss, at, forget_gradient, beta, rate, repairs):
    """θ_t − θ^r_t of one cycle: a step of rate β along the forget gradient, then gradient steps on the loss."""

    def repair(w, _):
        return w - rate * jax.grad(loss)(w), None

    return at - jax.jit(lambda w: jax.lax.scan(repair, w, None, length=repairs)[0])(at - beta * forget_gradient)


@pytest.mark.parametrize("repairs", [1, 5, 40])
def test_e1_a_cycle_on_a_quadratic_is_a_polynomial_filter(bowl, repairs):
    loss, hessian, centre, g = bowl
    at, beta, rate, identity = centre + 0.3, 0.1, 0.05, np.eye(6)
    left = np.linalg.matrix_power(identity - rate * np.asarray(hessian), repairs)
    expected = (identity - left) @ (at - centre) + beta * left @ g
    np.testing.assert_allclose(fast_slow(loss, at, g, beta, rate, repairs), expected, atol=1e-12)


def test_a_cycle_at_the_minimum_is_a_damped_newton_step(bowl):
    loss, _, centre, g = bowl
    rate, repairs = 0.05, 5  # ηT = 0.25
    found = fast_slow(loss, centre, g, 0.1, rate, repairs)
    newton = remain_newton(loss, centre, g, damping=1 / (rate * repairs))
    assert float(cosine(found, newton)) == pytest.approx(0.99, abs=0.005)  # for eigenvalues from .02 to 8
    assert float(cosine(found, newton)) > float(cosine(g, newton))


@pytest.mark.parametrize(("beta", "published"), [(0.1, 0.80), (0.01, 0.32), (0.001, 0.045)])
def test_e2_a_proximal_repair_is_the_damped_inverse_and_tends_to_the_inverse(bowl, beta, published):
    loss, hessian, centre, g = bowl
    # the repair θ = θ_f − (1/β) ∇L(θ), whose ηT is 1/β
    found = centre - jnp.linalg.solve(jnp.eye(6) + hessian / beta, centre - beta * g + hessian @ centre / beta)
    newton = beta**2 * remain_newton(loss, centre, g, damping=beta)
    np.testing.assert_allclose(found, newton, rtol=1e-6, atol=1e-12)
    limit = beta**2 * jnp.linalg.solve(hessian, g)
    assert float(norm(newton - limit) / norm(limit)) == pytest.approx(published, abs=0.04)


class Problem:
    """Softmax regression, 200 remaining and 30 forgotten rows, ridge 1e-2; losses are sums, minima found to rounding."""

    ridge = 1e-2

    def __init__(self):
        rng = np.random.default_rng(0)
        x, truth = rng.normal(size=(230, 4)), rng.normal(size=(4, 3))
        y = np.argmax(x @ truth + rng.gumbel(size=(230, 3)), 1)
        self.x, self.y = (jnp.asarray(x[:200]), jnp.asarray(x[200:])), (jnp.asarray(y[:200]), jnp.asarray(y[200:]))
        self.newton_step = jax.jit(
            lambda w, eps: (
                w
                - jnp.linalg.solve(jax.hessian(self.both)(w, eps).reshape(12, 12), self.slope(w, eps)).reshape(w.shape)
            )
        )
        self.star = self.minimum(0.0)
        # weights ε in the forget gradient, none in its Hessian
        self.parts = jax.jit(
            lambda w, eps: decompose(
                lambda p: eps * self.forget(p),
                self.remain,
                w,
                damping=0.0,
                reference=self.star,
                curvature_loss=self.forget,
            )
        )

    def ce(self, w, part):
        return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(self.x[part] @ w), self.y[part][:, None], 1))

    def forget(self, w):
        return self.ce(w, 1)

    def remain(self, w):
        return self.ce(w, 0) + 0.5 * self.ridge * jnp.sum(w**2)

    def both(self, w, eps):
        return self.remain(w) + eps * self.forget(w)

    def slope(self, w, eps):
        return jax.grad(self.both)(w, eps).ravel()

    def minimum(self, eps):
        w = jnp.zeros((4, 3))
        for _ in range(15):
            w = self.newton_step(w, eps)
        return w

    def divergence(self, part, p, q):
        return jnp.sum(kl(self.x[part] @ p, self.x[part] @ q))


@functools.cache
def _problem():
    return Problem()


@pytest.fixture
def problem(x64):
    return _problem()


def relative(a, b):
    return float(norm(a - b) / norm(b))


def test_proposition_1_forget_part_errs_linearly_in_the_weight_and_the_remain_part_not_at_all(problem):
    @jax.jit
    def exact_gradients(w):
        forget, remain = (jax.grad(lambda p: problem.divergence(part, problem.star, p))(w) for part in (1, 0))
        return forget, remain + problem.ridge * (w - problem.star)

    def errors(eps):
        w = problem.minimum(eps)
        parts = problem.parts(w, eps)
        exact, remain = exact_gradients(w)
        return relative(parts.salient, exact), relative(parts.remain, remain)

    found = np.array([errors(eps) for eps in (1.0, 0.3, 0.1, 0.03, 0.01)])
    assert found[:, 1].max() < 1e-10
    assert found[0, 0] < 0.1
    slopes = found[:, 0] / [1.0, 0.3, 0.1, 0.03, 0.01]
    np.testing.assert_allclose(slopes, slopes[-1], rtol=0.3)


def test_proposition_2_is_the_step_under_the_remaining_divergence(problem):
    p_forget, p_remain = 30 / 230, 200 / 230
    precondition = jax.jit(lambda w, tree: remain_newton(problem.remain, w, tree, damping=0.0))

    def objective(p, w, alpha):  # the remaining network stands for the retrained one on the remaining rows
        metric = problem.divergence(0, w, p) + 0.5 * problem.ridge * jnp.sum((p - w) ** 2)
        return p_forget * problem.divergence(1, problem.star, p) + (p_remain + 1 / alpha) * metric

    @jax.jit
    def newton_step(p, w, alpha):
        curvature = jax.hessian(objective)(p, w, alpha).reshape(12, 12)
        return p - jnp.linalg.solve(curvature, jax.grad(objective)(p, w, alpha).ravel()).reshape(4, 3)

    def error(eps):
        w, alpha = problem.minimum(eps), eps
        exact = w
        for _ in range(8):
            exact = newton_step(exact, w, alpha)
        parts = problem.parts(w, eps)
        rate = alpha * p_forget / (alpha * p_remain + 1)
        step = -rate * precondition(w, parts.salient)
        return relative(step, exact - w)

    errors = np.array([error(eps) for eps in (0.1, 0.03, 0.01)])
    assert errors[0] < 0.1
    slopes = errors / [0.1, 0.03, 0.01]
    np.testing.assert_allclose(slopes, slopes[-1], rtol=0.3)


def test_parts_are_the_dense_products_and_their_report_adds_up(problem):
    w, damping = problem.star + 0.1, 0.5
    parts = jax.jit(lambda w: decompose(problem.forget, problem.remain, w, damping=damping))(w)
    dense = [jax.jit(jax.hessian(loss))(w).reshape(12, 12) for loss in (problem.forget, problem.remain)]
    forget = -jax.grad(problem.forget)(w)
    newton = jnp.linalg.solve(dense[1] + damping * jnp.eye(12), forget.ravel())
    np.testing.assert_allclose(parts.forget, forget, rtol=1e-10)
    np.testing.assert_allclose(parts.remain, jax.grad(problem.remain)(w), rtol=1e-10)
    assert relative(parts.newton.ravel(), newton) < 1e-6
    assert relative(parts.salient.ravel(), dense[0] @ newton) < 1e-6
    numbers = report(parts)
    assert len(numbers) == 4 + 6
    length = numbers["norm/forget"] * numbers["norm/remain"]
    np.testing.assert_allclose(numbers["cosine/forget·remain"] * length, inner(parts.forget, parts.remain), rtol=1e-10)


def test_remain_newton_and_its_gauss_newton_on_a_network(net, hessian):
    damping = 0.05 - float(jnp.linalg.eigvalsh(hessian)[0])
    exact = jnp.linalg.solve(hessian + damping * jnp.eye(68), net.flat(net.vector))
    found = jax.jit(lambda v: remain_newton(net.loss, net.params, v, damping=damping))(net.vector)
    assert relative(net.flat(found), exact) < 1e-6

    @jax.jit
    def gauss_newton(vector):
        return remain_gauss_newton(
            lambda p: net.outputs(p, net.batch),
            lambda z: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), net.batch["y"][:, None], 1)),
            net.params,
            vector,
            damping=0.05,
        )

    logits, flat = (lambda v: net.outputs(net.tree(v), net.batch)), net.flat(net.params)
    each, p = jax.jit(jax.jacobian(logits))(flat), jax.nn.softmax(logits(flat))
    middle = jnp.einsum("bc,cd->bcd", p, jnp.eye(4)) - jnp.einsum("bc,bd->bcd", p, p)
    dense = jnp.einsum("bcp,bcd,bdq->pq", each, middle, each) / 16
    exact = jnp.linalg.solve(dense + 0.05 * jnp.eye(68), net.flat(net.vector))
    assert relative(net.flat(gauss_newton(net.vector)), exact) < 1e-6
