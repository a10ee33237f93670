"""Tools that the methods' tests share: a plan followed by hand, and rows that a network never saw."""

import jax
import numpy as np
import optax
import pytest


@pytest.fixture
def by_hand():
    """`follow(method, request, key, loss)`: the plan's own batches and optimizer, with a gradient of the test's making."""

    def follow(method, request, key, loss):
        plan = method.prepare(request, jax.random.split(key)[0])
        params, state = plan.params, plan.tx.init(plan.params)
        gradient = jax.jit(jax.grad(loss), static_argnames="name")
        for s in range(plan.num_steps):
            for name, batch in plan.work(s):
                updates, state = plan.tx.update(gradient(params, batch, name=name), state, params)
                params = optax.apply_updates(params, updates)
        return params

    return follow


@pytest.fixture
def same():
    """Two trees agree to an absolute tolerance."""

    def check(a, b, atol=2e-6):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(np.array(x), np.array(y), rtol=0, atol=atol), a, b)

    return check


@pytest.fixture
def losses():
    """`losses(request, params, batch) -> [B]`, cross-entropy in eval mode."""

    def of(request, params, batch):
        logits, _ = request.classifier.apply(params, request.stats, batch["x"], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    return of


@pytest.fixture(scope="session")
def validation():
    """Rows of the same law as the training rows."""
    rng = np.random.default_rng(7)
    centres = np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    y = rng.integers(0, 4, 60).astype(np.int32)
    return {"x": (centres[y] + 1.2 * rng.normal(size=(60, 4, 4, 1))).astype(np.float32), "y": y}


@pytest.fixture(scope="session")
def whole_class(stateless):
    """The same network, asked to forget class 3 and nothing else."""
    rows = {n: np.concatenate([stateless.forget[n], stateless.remain[n]]) for n in ("x", "y")}
    gone = rows["y"] == 3
    part = lambda chosen: {name: column[chosen] for name, column in rows.items()}
    return stateless._replace(forget=part(gone), remain=part(~gone))
