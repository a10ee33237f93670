"""Side networks: forgetting by dropping is exact, and prediction asks the network that was taught a class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.continual import methods
from clujax.continual.method import predictor
from clujax.errors import RequestError

QUICK = {"steps": 3, "batch_size": 16}


def test_after_learning_and_forgetting_nothing_is_left_of_a_revocable_task(scene, of, run, ask, same):
    method = methods.clpu(revocable={1}, **QUICK)
    _, learners = run(scene, method, [ask(of(0), task=0), ask(of(1), task=1), ask((), of(1), task=1)])
    _, before, during, after = learners
    same(after, before, atol=0)
    same((during.params, during.stats, during.memory), (before.params, before.stats, before.memory), atol=0)
    assert int(during.extra.task[0]) == 1


def test_what_comes_later_is_as_if_the_task_had_never_been(scene, of, run, ask, same):
    """The same keys for what both streams do; the revoked task's rows are others in each."""
    method = methods.clpu(revocable={1}, **QUICK)
    stream = lambda rows: [
        ask(of(0), task=0),
        ask(rows, task=1),
        ask(of(2), task=2),
        ask((), rows, task=1),
        ask(of(3), task=3),
    ]
    _, one = run(scene, method, stream(of(1)[:30]))
    _, other = run(scene, method, stream(of(4)))
    same(one[-1], other[-1], atol=0)


def test_a_permanent_task_is_learned_by_dark_experience_replay(scene, of, run, ask, same):
    method = methods.clpu(revocable=(), alpha=0.2, beta=0.4, **QUICK)
    requests = [ask(of(0), task=0), ask(of(1), task=1)]
    _, learners = run(scene, method, requests)
    _, expected = run(scene, methods.der_plus(alpha=0.2, beta=0.4, **QUICK), requests)
    same((learners[-1].params, learners[-1].memory), (expected[-1].params, expected[-1].memory), atol=0)


def test_revocable_rows_are_never_in_memory(scene, of, run, ask):
    requests = [ask(of(0), task=0), ask(of(1), task=1), ask(of(2), task=2)]
    _, learners = run(scene, methods.clpu(revocable={1}, **QUICK), requests)
    memory = learners[-1].memory
    held = np.asarray(memory.y)[np.asarray(memory.valid)]
    assert set(held) <= {0, 2}
    assert held.size
    _, learners = run(scene, methods.clpu(**QUICK), requests)
    assert not np.asarray(learners[-1].memory.valid).any()


@pytest.mark.parametrize("start", ["main", "fresh"])
def test_a_side_network_starts_as_asked(scene, of, run, ask, start, same):
    still = QUICK | {"learning_rate": 0.0}
    _, learners = run(scene, methods.clpu(start=start, slots=2, **still), [ask(of(0), task=7)])
    sides = learners[-1].extra
    first = jax.tree.map(lambda leaf: leaf[0], sides.params)
    if start == "main":
        same(first, learners[-1].params, atol=0)
    else:
        kernels = [
            leaf
            for leaf in jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), first, learners[-1].params))
        ]
        assert max(map(float, kernels)) > 0.1
    assert sides.task.tolist() == [7, -1]
    assert not np.asarray(sides.owns)[1:].any()


def test_the_logit_of_a_class_comes_from_the_network_that_was_taught_it(scene, of, run, ask):
    method = methods.clpu(revocable={1, 2}, slots=2, **QUICK)
    requests = [ask(of(0, 1), task=0), ask(of(2), task=1), ask(of(1)[:0].tolist() + of(3).tolist(), task=2)]
    rules, learners = run(scene, method, requests)
    logits, x = predictor(scene, rules), scene.columns["x"][:50]
    found, sides = np.asarray(logits(learners[-1], x)), learners[-1].extra
    own = lambda params: np.asarray(scene.classifier.apply(params, {}, x)[0])
    side = lambda i: own(jax.tree.map(lambda leaf: leaf[i], sides.params))
    expected = np.stack(
        [own(learners[-1].params)[:, 0], own(learners[-1].params)[:, 1], side(0)[:, 2], side(1)[:, 3]], 1
    )
    np.testing.assert_allclose(found[:, :4], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:, 4:], np.repeat(expected.min(1, keepdims=True), 2, 1), rtol=1e-5, atol=1e-5)


def test_of_two_networks_that_were_taught_a_class_the_larger_logit_counts(scene, of, run, ask):
    rules, learners = run(scene, methods.clpu(slots=2, **QUICK), [ask(of(0)[:30], task=0), ask(of(0)[30:], task=1)])
    x, sides = scene.columns["x"][:20], learners[-1].extra
    side = lambda i: np.asarray(scene.classifier.apply(jax.tree.map(lambda leaf: leaf[i], sides.params), {}, x)[0])
    found = np.asarray(predictor(scene, rules)(learners[-1], x))
    np.testing.assert_allclose(found[:, 0], np.maximum(side(0), side(1))[:, 0], rtol=1e-5)


def test_before_anything_was_taught_the_main_network_speaks(scene, run, same):
    rules, (learner,) = run(scene, methods.clpu(**QUICK), [])
    x = scene.columns["x"][:20]
    same(predictor(scene, rules)(learner, x), scene.classifier.apply(learner.params, {}, x)[0])


def test_rules_without_a_prediction_of_their_own_predict_by_the_classifier(scene, run, same):
    rules, (learner,) = run(scene, methods.replay(**QUICK), [])
    x = scene.columns["x"][:20]
    same(predictor(scene, rules)(learner, x), scene.classifier.apply(learner.params, {}, x)[0], atol=0)


def test_a_dropped_class_is_never_predicted(scene, of, run, ask):
    longer = {"steps": 60, "batch_size": 32}
    rules, learners = run(
        scene, methods.clpu(**longer), [ask(of(0, 1), task=0), ask(of(2, 3), task=1), ask((), of(0, 1), task=0)]
    )
    chosen = [np.asarray(predictor(scene, rules)(learner, scene.columns["x"])).argmax(-1) for learner in learners[2:]]
    assert set(chosen[0]) == {0, 1, 2, 3}
    assert set(chosen[1]) == {2, 3}


def test_a_task_that_is_learned_on_goes_on_in_its_own_network(scene, of, run, ask, same):
    still = QUICK | {"learning_rate": 0.0}
    requests = [ask(of(0)[:30], task=4), ask(np.concatenate([of(0)[30:], of(1)]), task=4)]
    _, learners = run(scene, methods.clpu(slots=2, start="fresh", **still), requests)
    same(learners[1].extra.params, learners[2].extra.params, atol=0)
    assert learners[2].extra.task.tolist() == [4, -1]
    assert np.flatnonzero(learners[2].extra.owns[0]).tolist() == [0, 1]


def test_a_task_that_is_forgotten_and_learned_in_one_request_begins_anew(scene, of, run, ask):
    still = QUICK | {"learning_rate": 0.0}
    requests = [ask(of(0), task=4), ask(of(1), of(0), task=4)]
    _, learners = run(scene, methods.clpu(slots=2, start="fresh", **still), requests)
    kernel = lambda learner: jax.tree.leaves(learner.extra.params)[1][0]
    assert float(jnp.abs(kernel(learners[1]) - kernel(learners[2])).max()) > 0.01
    assert np.flatnonzero(learners[2].extra.owns[0]).tolist() == [1]


def test_places_are_used_again_and_nothing_is_compiled_for_another_task(scene, of, run, ask, compilations):
    requests = [
        ask(of(0), task=0),
        ask(of(1), task=1),
        ask((), of(0), task=0),
        ask(of(2), task=2),
        ask((), of(1), task=1),
    ]
    rules, learners = run(scene, methods.clpu(slots=2, **QUICK), requests[:3])
    logits = predictor(scene, rules)
    logits(learners[-1], scene.columns["x"][:10])
    with compilations() as count:
        _, learners = run(scene, None, requests, rules=rules)
        logits(learners[-1], scene.columns["x"][:10])
        assert count() == 0
    assert learners[-1].extra.task.tolist() == [2, -1]


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([((0,), (), None)], "has no task"),
        ([((0,), (), 0), ((), (0,), 0)], "task 0 is to be forgotten but has no side network"),
        (
            [((0,), (), 1), ((1,), (), 2), ((2,), (), 3)],
            r"no place is free for task 3: the 2 side networks hold tasks \[1, 2\]",
        ),
        ([((0,), (), 0), ((1,), (), 4)], None),
    ],
)
def test_requests_that_cannot_be_carried_out_are_refused(scene, of, run, ask, requests, message):
    method = methods.clpu(revocable={1, 2, 3}, slots=2, **QUICK)
    asked = [ask(of(*learn), of(*forget), task) for learn, forget, task in requests]
    if message is None:
        run(scene, method, asked)
        return
    with pytest.raises(RequestError, match=message):
        run(scene, method, asked)


def test_an_empty_memory_is_refused_once_the_main_network_has_something_to_keep(scene, of, run, ask):
    method = methods.clpu(revocable={1}, **QUICK)
    run(scene, method, [ask(of(1), task=1), ask(of(0), task=0)], capacity=40)  # task 1 needs no rehearsal
    with pytest.raises(RequestError, match="rows are to be kept, but memory"):
        run(scene, method, [ask(of(0), task=0), ask(of(2), task=2)], capacity=0)
