"""Every method through one stream: what it may read, what it compiles, what it refuses."""

import itertools

import jax
import numpy as np
import pytest

from clujax import unlearning
from clujax.continual import methods
from clujax.continual.request import Request
from clujax.errors import RequestError

QUICK = {"steps": 3, "batch_size": 16}
RIVALS = {
    "finetune": lambda: methods.finetune(**QUICK),
    "replay": lambda: methods.replay(**QUICK),
    "replay_remain": lambda: methods.replay(replay="remain", **QUICK),
    "der": lambda: methods.der(**QUICK),
    "der_plus": lambda: methods.der_plus(**QUICK),
    "ewc": lambda: methods.ewc(**QUICK),
    "online_ewc": lambda: methods.online_ewc(fisher_rows=20, **QUICK),
    "lwf": lambda: methods.lwf(**QUICK),
    "joint": lambda: methods.joint(**QUICK),
    "joint_clipped": lambda: methods.joint(max_norm=1.0, replay="remain", **QUICK),
    "distill": lambda: methods.distill(**QUICK),
    "oracle": lambda: methods.oracle(epochs=0.5, batch_size=16),
}
FORGET_BLIND = [name for name in RIVALS if not name.startswith(("joint", "distill"))]


@pytest.fixture(scope="module")
def requests(of):
    """Learn, learn and forget twice with other numbers of rows, forget only twice, learn only twice."""
    return [
        Request(of(0)),
        Request(of(1), of(0)[:20]),
        Request(of(2)[:50], np.concatenate([of(0)[20:31], of(1)[:3]])),
        Request((), of(1)[3:10]),
        Request((), of(2)[:9]),
        Request(of(3)[:17]),
        Request(of(4)[:33]),
    ]


@pytest.fixture(scope="module")
def rules_of(scene, run, requests):
    """`rules_of(name)`: a method's rules, their programs compiled on one request of each kind."""
    rules = {}

    def rules_of(name):
        if name not in rules:
            rules[name], _ = run(scene, RIVALS[name](), [requests[i] for i in (0, 1, 3, 5)], seed=7)
        return rules[name]

    return rules_of


@pytest.mark.parametrize("name", RIVALS)
def test_requests_of_other_sizes_compile_nothing_and_end_in_the_same_bits_when_begun_again(
    name, scene, requests, rules_of, run, compilations, same
):
    rules = rules_of(name)
    with compilations() as count:
        _, learners = run(scene, None, requests, rules=rules)
        assert count() == 0
    for before, after in itertools.pairwise(learners):
        assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, after)
    assert all(np.isfinite(np.array(leaf)).all() for leaf in jax.tree.leaves(learners[-1].params))
    _, again = run(scene, None, requests, rules=rules)
    same(learners[-1].params, again[-1].params, atol=0)


@pytest.mark.parametrize("name", ["replay", "ewc", "lwf", "distill", "oracle"])
def test_averages_of_batch_norm_move_with_the_weights_and_teachers_keep_their_own(
    name, batch_norm_scene, requests, run, same
):
    _, learners = run(batch_norm_scene, RIVALS[name](), requests[:3])
    for before, after in itertools.pairwise(learners):
        for tree in ("params", "stats"):
            old, new = (jax.tree.leaves(getattr(learner, tree)) for learner in (before, after))
            assert max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(old, new)) > 0
            assert all(np.isfinite(np.array(leaf)).all() for leaf in new)
        assert jax.tree.structure(before.stats) == jax.tree.structure(after.stats)


@pytest.mark.parametrize("name", FORGET_BLIND)
def test_rows_to_forget_are_in_no_batch(name, scene, rules_of, of, learned, change_of, plans, numbers_in):
    rules = rules_of(name)
    learner, change = learned(scene, rules), change_of(of(2), of(0)[:40])
    (plan,) = plans(rules, learner, change)
    seen = numbers_in([plan.work(s) for s in range(plan.num_steps)])
    assert seen
    assert seen <= set(change.learn) | set(change.remain)


@pytest.mark.parametrize("name", ["joint", "distill"])
def test_rows_to_forget_are_in_the_part_of_that_name_alone(
    name, scene, rules_of, of, learned, change_of, plans, numbers_in
):
    rules = rules_of(name)
    learner, change = learned(scene, rules), change_of(of(2), of(0)[:40])
    (plan,) = plans(rules, learner, change)
    batches = [plan.work(s)[0][1] for s in range(plan.num_steps)]
    seen = {part: numbers_in([batch[part] for batch in batches]) for part in ("learn", "replay", "forget")}
    assert seen["forget"] <= set(change.forget)
    assert seen["replay"] <= set(change.remain)
    assert seen["learn"] <= set(change.learn)
    assert all(seen.values())


@pytest.mark.parametrize("name", ["finetune", "ewc", "online_ewc", "lwf"])
def test_without_rehearsal_a_forget_only_request_changes_nothing(name, scene, requests, run, same):
    _, learners = run(scene, RIVALS[name](), [requests[0], Request((), requests[1].forget)])
    same(learners[1]._replace(memory=None), learners[2]._replace(memory=None), atol=0)


@pytest.mark.parametrize("name", ["replay", "der", "der_plus", "joint", "distill", "after"])
def test_an_empty_memory_is_refused_when_rows_are_to_be_kept(name, scene, rules_of, of, learned, change_of, plans):
    rules = rules_of(name) if name in RIVALS else methods.after(unlearning.salun()).build(scene)
    learner = learned(scene, rules)
    emptied = learner._replace(memory=learner.memory._replace(valid=np.zeros_like(learner.memory.valid)))
    with pytest.raises(RequestError, match="80 rows are to be kept, but memory"):
        plans(rules, emptied, change_of(of(2), of(0)[:40]))


@pytest.mark.parametrize("name", ["replay", "replay_remain", "der_plus", "joint", "distill"])
def test_with_nothing_to_keep_new_rows_are_learned_alone(name, scene, rules_of, of, learned, change_of, plans):
    rules = rules_of(name)
    learner = learned(scene, rules)
    (plan,) = plans(rules, learner, change_of(of(2), of(0, 1)))
    assert set(plan.work(0)[0][1]) & {"learn", "replay", "second"} == {"learn"}


@pytest.mark.parametrize("name", ["replay", "replay_remain", "der", "der_plus"])
def test_with_nothing_to_keep_and_nothing_to_learn_there_is_no_phase(
    name, scene, rules_of, of, learned, change_of, plans
):
    rules = rules_of(name)
    assert plans(rules, learned(scene, rules), change_of((), of(0, 1))) == []


@pytest.mark.parametrize("name", [name for name in methods.__all__ if name != "after"])
@pytest.mark.parametrize("setting", [{"learning_rate": -0.1}, {"batch_size": 0}, {"weight_decay": float("nan")}])
def test_bad_training_settings_are_refused_by_name(name, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        getattr(methods, name)(**setting)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (methods.finetune, {"steps": 0}),
        (methods.replay, {"replay": "buffer"}),
        (methods.replay, {"replay_weight": -1.0}),
        (methods.der, {"alpha": -0.1}),
        (methods.der_plus, {"beta": float("nan")}),
        (methods.ewc, {"strength": -1.0}),
        (methods.ewc, {"fisher": "batch"}),
        (methods.ewc, {"fisher_rows": 0}),
        (methods.online_ewc, {"decay": 1.5}),
        (methods.lwf, {"temperature": 0.0}),
        (methods.lwf, {"distill_weight": -1.0}),
        (methods.joint, {"ascent": -1.0}),
        (methods.joint, {"exponent": -1.0}),
        (methods.joint, {"max_norm": 0.0}),
        (methods.distill, {"gamma": 1.1}),
        (methods.distill, {"temperature": -1.0}),
        (methods.oracle, {"epochs": -1}),
        (methods.clpu, {"start": "copy"}),
        (methods.clpu, {"slots": 0}),
        (lambda **s: methods.after(unlearning.salun(), **s), {"replay": "all"}),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)
