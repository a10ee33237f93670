"""Elastic weights: a sum of quadratics in constant memory, Fisher diagonals of any number of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.adaptation.losses import cross_entropy
from clujax.adaptation.method import execute
from clujax.continual import methods
from clujax.continual.methods.ewc import add_penalty, fisher_of, move_penalty, no_penalty, penalty
from clujax.geometry import diagonal, distance

ONE = {"steps": 1, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def trees(seed, count):
    """`count` pairs of a Fisher diagonal, zero in places, and a centre."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    pairs = []
    for _ in range(count):
        centre = {"w": draw((3, 2)), "b": draw(4)}
        alive = {name: rng.random(leaf.shape) < 0.7 for name, leaf in centre.items()}
        pairs.append((jax.tree.map(lambda a, c: jnp.where(a, jnp.square(c) * 3, 0.0), alive, centre), centre))
    return pairs


def summed(pairs, params):
    """Σ_t Σ_i F_ti (θ_i − θ_ti)²."""
    return sum(jnp.sum(f[n] * (params[n] - c[n]) ** 2) for f, c in pairs for n in params)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), count=st.integers(0, 6))
def test_total_and_centre_are_the_sum_of_all_penalties(seed, count):
    *pairs, (_, params) = trees(seed, count + 1)
    held = no_penalty(params)
    for fisher, centre in pairs:
        held = add_penalty(held, fisher, centre)
    np.testing.assert_allclose(penalty(held, params), summed(pairs, params), rtol=2e-5, atol=1e-5)
    found, expected = (
        jax.grad(lambda p: penalty(held, p))(params),
        jax.grad(lambda p: summed(pairs, p) + 0.0 * p["b"][0])(params),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_the_online_penalty_decays_and_moves_its_centre():
    (f1, c1), (f2, c2), (_, params) = trees(0, 3)
    held = move_penalty(move_penalty(no_penalty(params), f1, c1, 0.5), f2, c2, 0.5)
    total = jax.tree.map(lambda a, b: 0.5 * a + b, f1, f2)
    np.testing.assert_allclose(penalty(held, params), summed([(total, c2)], params), rtol=1e-5)


@pytest.mark.parametrize("kind", ["exact", "example"])
@pytest.mark.parametrize("rows", [7, 16, 37])
def test_filling_up_batches_changes_no_fisher_diagonal(scene, fresh, kind, rows, same):
    params, stats = fresh
    numbers = np.arange(5, 5 + rows)
    found = fisher_of(scene, kind=kind, batch_size=16)(params, stats, numbers, jax.random.key(0))
    outputs = lambda params, batch: scene.classifier.apply(params, stats, batch["x"])[0]
    losses = lambda params, batch: cross_entropy(outputs(params, batch), batch["y"])
    part = {name: scene.columns[name][numbers] for name in "xy"}
    same(found, diagonal(losses, params, [part], kind=kind, outputs=outputs), atol=1e-5)


def test_labels_from_the_network_make_a_fisher_diagonal_that_is_right_on_average(scene, fresh):
    params, stats = fresh
    rows = np.arange(200)
    exact = fisher_of(scene, kind="exact", batch_size=50)(params, stats, rows, jax.random.key(0))
    draw = fisher_of(scene, kind="true", batch_size=50)
    many = [draw(params, stats, rows, jax.random.key(i)) for i in range(20)]
    mean = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), 0), *many)
    assert float(distance(mean, exact)) < 0.15 * float(distance(exact, jax.tree.map(jnp.zeros_like, exact)))


def test_at_most_so_many_rows_make_the_fisher_diagonal(scene, fresh, compilations, same):
    params, stats = fresh
    few = fisher_of(scene, kind="example", batch_size=16, limit=16)
    every = fisher_of(scene, kind="example", batch_size=16)
    same(
        few(params, stats, np.arange(9), jax.random.key(0)),
        every(params, stats, np.arange(9), jax.random.key(0)),
        atol=0,
    )
    first = few(params, stats, np.arange(100), jax.random.key(0))
    with compilations() as count:
        second = few(params, stats, np.arange(80), jax.random.key(1))
        assert count() == 0
    assert float(distance(first, second)) > 0


@pytest.mark.parametrize("name", ["ewc", "online_ewc"])
def test_one_step_is_the_gradient_of_loss_and_penalties(name, scene, of, run, ask, plans, change_of, mean_ce, same):
    """After two learning requests, the third step is pulled to where they ended, by their Fisher information."""
    method = getattr(methods, name)(strength=0.5, fisher="exact", **ONE)
    requests = [ask(of(0)), ask(of(1)), ask((), of(0)[:10])]
    rules, learners = run(scene, method, requests)
    estimate = fisher_of(scene, kind="exact", batch_size=16)
    ends = [learners[1].params, learners[2].params]
    fishers = [estimate(end, {}, rows, jax.random.key(0)) for end, rows in zip(ends, (of(0), of(1)))]
    (plan,) = plans(rules, learners[-1], change_of(of(2)))
    batch = plan.work(0)[0][1]["learn"]

    def loss(params):
        if name == "ewc":
            terms = [jnp.sum(f * (p - e) ** 2) for F, E in zip(fishers, ends) for f, p, e in leaves(F, params, E)]
        else:
            total = jax.tree.map(lambda a, b: 0.95 * a + b, *fishers)
            terms = [jnp.sum(f * (p - e) ** 2) for f, p, e in leaves(total, params, ends[1])]
        return mean_ce(scene, params, batch) + 0.25 * sum(terms)

    leaves = lambda *trees: zip(*map(jax.tree.leaves, trees))
    start = jax.tree.map(lambda leaf: leaf + 0.3, plan.params)  # away from the centres, where the penalty pulls
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.grad(loss)(start))
    same(execute(plan._replace(params=start), key=jax.random.key(0)).params, expected, atol=3e-6)


def test_a_strong_penalty_holds_the_network(scene, of, run, ask):
    moved = {}
    for strength in (0.0, 30.0):
        method = methods.ewc(strength=strength, steps=60, batch_size=32)
        _, learners = run(scene, method, [ask(of(0, 1)), ask(of(2))])
        moved[strength] = float(penalty(learners[1].extra, learners[2].params))
    assert moved[30.0] < 0.1 * moved[0.0]


def test_memory_does_not_grow_with_requests(scene, of, run, ask):
    _, learners = run(scene, methods.ewc(**ONE), [ask(of(c)) for c in range(4)])
    shapes = [jax.tree.map(jnp.shape, learner.extra) for learner in learners]
    assert all(shape == shapes[0] for shape in shapes)
