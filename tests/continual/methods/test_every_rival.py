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
ADD_ONS = {
    "salun": lambda: unlearning.salun(epochs=1, batch_size=16),
    "sfron": lambda: unlearning.sfron(steps=2, batch_size=16),
    "gradient_ascent": lambda: unlearning.gradient_ascent(epochs=1, batch_size=16),
    "random_label": lambda: unlearning.random_label(epochs=1, batch_size=16),
    "scrub": lambda: unlearning.scrub(epochs=1, forget_epochs=1, batch_size=16),
}
RIVALS |= {
    f"after_{name}": lambda name=name: methods.after(ADD_ONS[name](), learn=methods.replay(**QUICK)) for name in ADD_ONS
}
FORGET_BLIND = [name for name in RIVALS if not name.startswith(("joint", "distill", "after"))]
DRY = [name for name in RIVALS if not name.startswith("after")]


@pytest.fixture(scope="module")
def requests(of):
    """Learn, learn and forget twice with other numbers of rows, forget only twice, learn only."""
    return [
        Request(of(0)),
        Request(of(1), of(0)[:20]),
        Request(of(2)[:50], np.concatenate([of(0)[20:31], of(1)[:3]])),
        Request((), of(1)[3:10]),
        Request((), of(2)[:9]),
        Request(of(3)[:17]),
        Request(of(4)[:33]),
    ]


@pytest.mark.parametrize("network", ["scene", "batch_norm_scene"])
@pytest.mark.parametrize("name", RIVALS)
def test_three_requests_leave_a_finite_network_and_the_same_bits_when_begun_again(
    name, network, request, requests, run, same
):
    scene = request.getfixturevalue(network)
    if name.startswith("after") and name != "after_salun" and network == "batch_norm_scene":
        pytest.skip("the add-ons have tests of their own; one stands for them here")
    rules, learners = run(scene, RIVALS[name](), requests[:3])
    for before, after in itertools.pairwise(learners):
        assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, after)
        moved = jax.tree.map(lambda a, b: float(np.abs(np.array(a) - np.array(b)).max()), before.params, after.params)
        assert max(jax.tree.leaves(moved)) > 0
    assert all(np.isfinite(np.array(leaf)).all() for leaf in jax.tree.leaves((learners[-1].params, learners[-1].stats)))
    _, again = run(scene, None, requests[:3], rules=rules)
    same((learners[-1].params, learners[-1].stats), (again[-1].params, again[-1].stats), atol=0)


@pytest.mark.parametrize("name", DRY)
def test_later_requests_of_other_sizes_compile_nothing(name, scene, requests, run, compilations):
    rules, _ = run(scene, RIVALS[name](), [requests[0], *requests[1:2], *requests[3:4], *requests[5:6]])
    with compilations() as count:
        run(scene, None, requests, rules=rules, seed=1)
        assert count() == 0


@pytest.mark.parametrize("name", FORGET_BLIND)
def test_rows_to_forget_are_in_no_batch(name, scene, of, learned, change_of, plans, numbers_in):
    rules = RIVALS[name]().build(scene)
    learner, change = learned(scene, rules), change_of(of(2), of(0)[:40])
    (plan,) = plans(rules, learner, change)
    seen = numbers_in([plan.work(s) for s in range(plan.num_steps)])
    assert seen
    assert seen <= set(change.learn) | set(change.remain)


@pytest.mark.parametrize("name", ["joint", "distill"])
def test_rows_to_forget_are_in_the_part_of_that_name_alone(name, scene, of, learned, change_of, plans, numbers_in):
    rules = RIVALS[name]().build(scene)
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


@pytest.mark.parametrize("name", ["replay", "der", "der_plus", "joint", "distill", "after_salun"])
def test_an_empty_memory_is_refused_when_rows_are_to_be_kept(name, scene, of, learned, change_of, plans):
    rules = RIVALS[name]().build(scene)
    learner = learned(scene, rules)
    emptied = learner._replace(memory=learner.memory._replace(valid=np.zeros_like(learner.memory.valid)))
    with pytest.raises(RequestError, match="80 rows are to be kept, but memory"):
        plans(rules, emptied, change_of(of(2), of(0)[:40]))


@pytest.mark.parametrize("name", ["replay", "replay_remain", "der_plus", "joint", "distill"])
def test_with_nothing_to_keep_new_rows_are_learned_alone(name, scene, of, learned, change_of, plans):
    rules = RIVALS[name]().build(scene)
    learner = learned(scene, rules)
    (plan,) = plans(rules, learner, change_of(of(2), of(0, 1)))
    assert set(plan.work(0)[0][1]) & {"learn", "replay", "second"} == {"learn"}


@pytest.mark.parametrize("name", ["replay", "replay_remain", "der", "der_plus"])
def test_with_nothing_to_keep_and_nothing_to_learn_there_is_no_phase(name, scene, of, learned, change_of, plans):
    rules = RIVALS[name]().build(scene)
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
