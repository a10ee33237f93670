"""UG-CLU: its limits are SFR-on and replay, its steps follow the rule, its programs serve a whole stream."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax import training, unlearning
from clujax.adaptation.losses import adaptive_ascent, random_relabel
from clujax.adaptation.method import execute
from clujax.adaptation.schedules import cosine, linear
from clujax.continual import methods
from clujax.continual.method import replicated
from clujax.continual.objectives import adaptive_learning, focal_learning, plain_learning
from clujax.continual.request import Request
from clujax.errors import RequestError
from clujax.models import mlp

QUICK = {"steps": 6, "repair": 3, "batch_size": 20, "learning_rate": 0.05}


def carried(plan, seed=5):
    return execute(plan, key=jax.random.key(seed), log_every=1)


def test_without_learn_rows_it_is_sfron_step_for_step(scene, learned, change_of, of, plans, same, monkeypatch):
    """The same batches, mask, schedule and optimizer: sfron's own plan is fed what UG-CLU's plan asks for."""
    settings = QUICK | {"ascent": 3.0, "max_norm": 0.8, "slow_step": 0.5, "slow_per": "cycle", "schedule": linear}
    rules = methods.ug_clu(replay="remain", **settings).build(scene)
    learner, change = learned(scene, rules), change_of(forget=of(0)[:20])
    (ours,) = plans(rules, learner, change)
    request = scene.bare._replace(
        params=learner.params, stats={}, forget=scene.rows(change.forget), remain=scene.rows(change.remain)
    )
    theirs = unlearning.sfron(whole_cycles=False, **settings).prepare(request, jax.random.key(0))
    assert 0 < ours.facts["forget_density"] < 1
    assert ours.facts["forget_density"] == pytest.approx(theirs.facts["density"]["total"], abs=0.35)
    # Both masks are of one rule; batches of other orders give other diagonals, so that sfron takes ours.
    mask = ours.tx.init(learner.params)[0].forget[0].mask
    module = sys.modules["clujax.unlearning.methods.sfron"]  # its name in the package is the function's
    monkeypatch.setattr(module, "balanced_mask", lambda *args, **options: (mask, {}))
    theirs = unlearning.sfron(whole_cycles=False, **settings).prepare(request, jax.random.key(0))
    same(carried(ours).params, carried(theirs._replace(work=ours.work)).params, atol=0)


def test_without_forget_rows_and_with_one_repair_a_step_it_alternates_learn_and_remain(
    scene, learned, change_of, of, plans, mean_ce, same
):
    settings = QUICK | {"repair": 1, "learn_placement": "fast", "max_norm": None}
    rules = methods.ug_clu(replay="remain", momentum=0.0, weight_decay=0.0, **settings).build(scene)
    learner, change = learned(scene, rules), change_of(learn=of(2))
    (plan,) = plans(rules, learner, change)
    params, rate = learner.params, optax.cosine_decay_schedule(0.05, 6)
    for s in range(6):
        names = [name for name, _ in plan.work(s)]
        assert names == ["learn", "remain"]
        for _, batch in plan.work(s):
            gradient = jax.grad(lambda p, batch=batch: mean_ce(scene, p, batch))(params)
            params = jax.tree.map(lambda p, g, s=s: p - rate(s) * g, params, gradient)
    same(carried(plan).params, params, atol=1e-5)


def test_the_fast_step_takes_both_gradients_at_the_same_parameters(scene, learned, change_of, of, plans, mean_ce, same):
    settings = {"steps": 1, "repair": 1, "batch_size": 20, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    rules = methods.ug_clu(
        learn_placement="fast", threshold=None, max_norm=None, ascent=2.0, learn_weight=0.5, replay="remain",
        objective=adaptive_ascent(exponent=0.0), **settings,
    ).build(scene)  # fmt: skip
    learner, change = learned(scene, rules), change_of(learn=of(3), forget=of(1)[:20])
    (plan,) = plans(rules, learner, change)
    (fast, both), (remain, kept) = plan.work(0)
    assert (fast, remain) == ("fast", "remain")
    params = learner.params
    push = lambda p: 0.5 * mean_ce(scene, p, both["learn"]) - 2.0 * mean_ce(scene, p, both["forget"])
    for loss in (push, lambda p: mean_ce(scene, p, kept)):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    outcome = carried(plan)
    same(outcome.params, params, atol=1e-5)
    assert {"forget/forget_loss", "forget/effective_sample_size", "learn/learn_loss"} <= set(outcome.records[0])


@pytest.mark.parametrize("place", ["interleaved", "fast"])
def test_silent_rows_are_told_of_wherever_the_forget_gradient_is_taken(place, scene, learned, change_of, of, plans):
    settings = QUICK | {"objective": adaptive_ascent(losses=lambda logits, labels, key: 0 * logits[:, 0], floor=0.0)}
    rules = methods.ug_clu(learn_placement=place, replay="remain", threshold=None, **settings).build(scene)
    (plan,) = plans(rules, learned(scene, rules), change_of(learn=of(2), forget=of(0)[:20]))
    assert any("exactly 0" in text for text in carried(plan).warnings)


@pytest.mark.parametrize("place", ["interleaved", "fast"])
def test_which_steps_an_iteration_has(scene, learned, change_of, of, plans, place):
    rules = methods.ug_clu(learn_placement=place, **QUICK).build(scene)
    words = lambda **rows: [
        [name for name, _ in plans(rules, learned(scene, rules), change_of(**rows))[0].work(s)] for s in range(4)
    ]
    both, learn = {"interleaved": (["forget", "learn"], ["learn"]), "fast": (["fast"], [])}[place]
    assert words(learn=of(2), forget=of(0)[:9]) == [
        [*both, "remain"], *[[*learn, "remain"]] * 2, [*both, "remain"]
    ]  # fmt: skip
    assert words(forget=of(0)[:9]) == [["forget", "remain"], ["remain"], ["remain"], ["forget", "remain"]]
    assert words(learn=of(2))[0] == ["learn", "remain"]
    assert words(learn=of(2), forget=of(0, 1))[:2] == [["forget", "remain"], ["remain"]], (
        "nothing remains: plain training"
    )


@pytest.mark.parametrize("replay", ["memory", "remain"])
@pytest.mark.parametrize("place", ["interleaved", "fast"])
def test_later_requests_of_other_sizes_compile_nothing(scene, of, run, compilations, replay, place):
    requests = [
        Request(of(0, 1)),
        Request(of(2), of(0)[:20]),
        Request((), of(1)[3:10]),
        Request(of(3)[:17]),
        Request(of(4)[:33], of(2)[:31]),
    ]
    method = methods.ug_clu(replay=replay, learn_threshold=0.5, learn_placement=place, **QUICK)
    rules, _ = run(scene, method, [*requests[:2], Request((), of(1)[:30]), Request(of(3))])
    with compilations() as count:
        run(scene, None, requests, rules=rules, seed=1)
        assert count() == 0


@pytest.mark.parametrize("network", ["scene", "batch_norm_scene"])
def test_a_request_begun_again_ends_in_the_same_bits(network, request, of, run, same):
    scene = request.getfixturevalue(network)
    requests = [Request(of(0, 1)), Request(of(2), of(0)[:20]), Request((), of(1)[:7])]
    rules, learners = run(scene, methods.ug_clu(**QUICK), requests)
    _, again = run(scene, None, requests, rules=rules)
    same((learners[-1].params, learners[-1].stats), (again[-1].params, again[-1].stats), atol=0)
    for before, after in itertools.pairwise(learners):
        assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, after)


def test_rows_to_forget_are_read_by_forget_steps_only(scene, learned, change_of, of, plans, numbers_in):
    rules = methods.ug_clu(**QUICK).build(scene)
    change = change_of(learn=of(2), forget=of(0)[:30])
    (plan,) = plans(rules, learned(scene, rules), change)
    for s in range(plan.num_steps):
        for name, batch in plan.work(s):
            seen = numbers_in(batch)
            assert seen <= set({"forget": change.forget, "learn": change.learn, "remain": change.remain}[name].tolist())


def test_learning_and_forgetting_move_as_they_should(scene, of, run):
    settings = {"steps": 150, "repair": 5, "ascent": 5.0, "batch_size": 32, "learning_rate": 0.05}
    requests = [Request(of(0, 1, 2)), Request(of(3, 4), of(0))]
    _, learners = run(scene, methods.ug_clu(replay="remain", **settings), requests)
    right = lambda learner, rows: float(
        np.mean(
            scene.classifier.apply(learner.params, {}, scene.columns["x"][rows])[0].argmax(-1)
            == scene.columns["y"][rows]
        )
    )
    assert right(learners[1], of(0)) > 0.9
    assert right(learners[2], of(0)) < 0.2
    assert min(right(learners[2], rows) for rows in (of(1, 2), of(3, 4))) > 0.8


def test_rows_that_nothing_would_keep_are_no_request(scene, of, run):
    method = methods.ug_clu(**QUICK)
    with pytest.raises(RequestError, match="memory"):
        run(scene, method, [Request(of(0)), Request(of(1))], capacity=0)


def test_a_class_without_an_output_is_refused(scene, of, run):
    narrow = scene._replace(classifier=mlp(num_classes=3, widths=(8,)), num_classes=3)
    with pytest.raises(RequestError, match=r"classes \[3, 4\], but the network has 3 outputs"):
        run(narrow, methods.ug_clu(**QUICK), [Request(of(0)), Request(of(1, 3, 4))])


def test_eight_devices_end_where_one_does(scene, columns, of, run, same):
    mesh = training.make_mesh((("data", -1),))
    whole = replicated(mesh)
    spread = scene._replace(
        columns={name: jax.device_put(column, whole) for name, column in columns.items()}, mesh=mesh
    )
    requests = [Request(of(0)[:50]), Request(of(2), of(0)[:20])]
    settings = QUICK | {"batch_size": 24, "steps": 3}
    (_, one), (_, eight) = (run(each, methods.ug_clu(**settings), requests) for each in (scene, spread))
    same(one[-1].params, eight[-1].params, atol=2e-5)
    np.testing.assert_array_equal(one[-1].memory.rows, eight[-1].memory.rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"ascent": float("nan")}, "ascent is nan"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"slow_step": 2.0}, "slow_step is 2.0"),
        ({"learn_placement": "slow"}, "learn_placement is 'slow'"),
        ({"replay": "none"}, "replay is 'none'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        methods.ug_clu(**settings)


def test_learn_objectives():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    labels = jnp.array([0, 0, 0])
    losses = np.log(1 + np.exp(np.array([-2.0, 1.0, 3.0])))
    plain = plain_learning()(logits, labels, 0.3)[0]
    np.testing.assert_allclose(plain, losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(adaptive_learning()(logits, labels, 0.0)[0], plain, rtol=1e-6)
    share = losses**-0.5 / np.sum(losses**-0.5) * 3 * 0.4
    expected = np.mean((1 - np.clip(share, 0, 1)) * losses)
    np.testing.assert_allclose(adaptive_learning()(logits, labels, 0.4)[0], expected, rtol=1e-6)
    weights = losses**0.5 / np.sum(losses**0.5)
    np.testing.assert_allclose(focal_learning()(logits, labels, 0.4)[0], np.sum(weights * losses), rtol=1e-6)
    gradient = jax.grad(lambda z: focal_learning()(z, labels, 0.4)[0])(logits)
    assert float(jnp.abs(gradient[0]).max()) > 0
    with pytest.raises(ValueError, match="exponent is -1"):
        adaptive_learning(exponent=-1)


def test_a_request_by_random_labels_needs_no_ascent(scene, of, run):
    method = methods.ug_clu(objective=random_relabel(6), schedule=cosine, ascent=1.0, **QUICK)
    _, learners = run(scene, method, [Request(of(0, 1)), Request(of(2), of(0))])
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(learners[-1].params))
