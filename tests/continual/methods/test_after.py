"""A learner with an unlearning method after it: what either gets, and what is left when one does nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax import unlearning
from clujax.adaptation.method import Method, execute
from clujax.adaptation.plans import edited
from clujax.continual import methods
from clujax.errors import RequestError

QUICK = {"steps": 3, "batch_size": 16}


@pytest.fixture
def asked():
    """An unlearning method that adds 1 to every weight, and the requests that it was given."""
    seen = []

    def prepare(request, key):
        seen.append(request)
        return edited(request, jax.tree.map(lambda leaf: leaf + 1, request.params))

    return Method("plus_one", prepare, {"by": 1}), seen


def test_an_unlearning_method_that_does_nothing_leaves_the_learner(scene, of, run, ask, same):
    requests = [ask(of(0)), ask(of(1), of(0)[:20])]
    idle = methods.after(unlearning.finetune(epochs=0), learn=methods.replay(**QUICK))
    _, learners = run(scene, idle, requests)
    _, expected = run(scene, methods.replay(**QUICK), requests)
    same(learners[-1].params, expected[-1].params, atol=0)


def test_a_learner_without_rows_to_forget_is_left_alone(scene, of, run, ask, same):
    requests = [ask(of(0)), ask(of(1))]
    _, learners = run(scene, methods.after(unlearning.salun(), learn=methods.der_plus(**QUICK)), requests)
    _, expected = run(scene, methods.der_plus(**QUICK), requests)
    same(learners[-1].params, expected[-1].params, atol=0)


def test_rows_to_forget_alone_are_unlearned_from_the_network_as_it_is(scene, of, run, ask, same, asked):
    _, learners = run(scene, methods.after(asked[0], learn=methods.replay(**QUICK)), [ask(of(0)), ask((), of(0)[:20])])
    same(learners[-1].params, jax.tree.map(lambda leaf: leaf + 1, learners[-2].params), atol=0)


def test_unlearning_starts_where_learning_ended(scene, of, run, ask, same, asked):
    requests = [ask(of(0)), ask(of(1), of(0)[:20])]
    _, learners = run(scene, methods.after(asked[0], learn=methods.replay(**QUICK)), requests)
    _, expected = run(scene, methods.replay(**QUICK), requests)
    same(learners[-1].params, jax.tree.map(lambda leaf: leaf + 1, expected[-1].params), atol=0)
    same(asked[1][0].params, expected[-1].params, atol=0)


def test_it_keeps_by_memory_and_as_many_new_rows(scene, of, learned, change_of, plans, asked):
    rules = methods.after(asked[0], learn=methods.replay(**QUICK)).build(scene)
    learner, change = learned(scene, rules), change_of(of(2), of(0)[:40])
    plans(rules, learner, change)
    (given,) = asked[1]
    held = np.asarray(learner.memory.rows)[np.asarray(learner.memory.valid)]
    held = held[~np.isin(held, change.forget)]
    rows = np.asarray(given.remain["index"])
    assert sorted(rows[: len(held)]) == sorted(held)
    assert len(rows) == 2 * len(held)
    assert set(rows[len(held) :]) <= set(change.learn)
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(given.remain["x"], scene.columns["x"][rows])
    np.testing.assert_array_equal(given.remain["y"], scene.columns["y"][rows])
    np.testing.assert_array_equal(given.forget["index"], change.forget)


def test_or_by_all_rows_that_are_to_be_known(scene, of, learned, change_of, plans, asked):
    method = methods.after(asked[0], replay="remain")
    assert method.replay == "remain"
    assert method.settings["learn"]["replay"] == "remain"
    rules, change = method.build(scene), change_of(of(2), of(0)[:40])
    plans(rules, learned(scene, rules), change)
    np.testing.assert_array_equal(asked[1][0].remain["index"], np.union1d(change.remain, change.learn))


def test_the_learner_gets_no_rows_to_forget(scene, of, learned, change_of, plans, numbers_in, asked):
    rules = methods.after(asked[0], learn=methods.joint(**QUICK)).build(scene)
    change = change_of(of(2), of(0)[:40])
    first, _ = plans(rules, learned(scene, rules), change)
    assert numbers_in([first.work(s) for s in range(3)]) <= set(change.learn) | set(change.remain)


def test_what_unlearning_lacks_is_said_before_anything_is_trained(scene, of, learned, change_of):
    rules = methods.after(unlearning.scrub_r(), learn=methods.replay(**QUICK)).build(scene)
    with pytest.raises(RequestError, match="scrub_r needs 'validation'"):
        rules.phases(learned(scene, rules), change_of(of(2), of(0)[:40]))


def test_name_and_settings_tell_of_both(asked):
    method = methods.after(asked[0], learn=methods.der(alpha=0.2))
    assert method.name == "der+plus_one"
    assert method.settings["unlearning"] == {"method": "plus_one", "by": 1}
    assert method.settings["learn"]["alpha"] == 0.2
    assert methods.after(asked[0], learn=methods.der(), replay="remain").replay == "memory"  # which der needs


@pytest.mark.parametrize(
    "unlearn",
    [
        unlearning.salun(epochs=1, batch_size=16),
        unlearning.sfron(steps=2, batch_size=16),
        unlearning.scrub(epochs=1, forget_epochs=1, batch_size=16),
    ],
    ids=lambda method: method.name,
)
def test_any_unlearning_method_serves(unlearn, scene, of, run, ask):
    method = methods.after(unlearn, learn=methods.finetune(**QUICK))
    _, learners = run(scene, method, [ask(of(0)), ask(of(1), of(0)[:20])])
    assert all(np.isfinite(np.array(leaf)).all() for leaf in jax.tree.leaves(learners[-1].params))


def test_a_real_unlearning_method_forgets(scene, of, run, ask):
    learn = methods.replay(steps=150, batch_size=32, replay="remain")
    method = methods.after(unlearning.random_label(epochs=5, batch_size=32), learn=learn, replay="remain")
    _, learners = run(scene, method, [ask(of(0, 1)), ask(of(2), of(1))])
    correct = lambda learner, *classes: float(
        jnp.mean(
            scene.classifier.apply(learner.params, {}, scene.columns["x"][of(*classes)])[0].argmax(-1)
            == scene.columns["y"][of(*classes)]
        )
    )
    assert correct(learners[1], 1) > 0.9
    assert correct(learners[2], 1) < 0.5
    assert correct(learners[2], 0, 2) > 0.8


def test_its_plan_is_the_unlearning_methods_own(scene, of, learned, change_of, plans, same):
    """A forget-only request is `prepare` of that method on the network, the rows to forget and those to keep."""
    chosen = unlearning.gradient_ascent(epochs=2, batch_size=16)
    rules = methods.after(chosen, replay="remain").build(scene)
    learner, change = learned(scene, rules), change_of((), of(0)[:40])
    (plan,) = plans(rules, learner, change)
    request = scene.bare._replace(params=learner.params, stats={}, forget=scene.rows(change.forget))
    own = chosen.prepare(request, jax.random.split(jax.random.key(3))[1])
    run = lambda plan: execute(plan, key=jax.random.key(0)).params
    same(run(plan), run(own), atol=0)
