"""What a rival becomes when its own term is taken away, and its step written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.losses import random_relabel
from clujax.adaptation.method import execute
from clujax.continual import methods
from clujax.continual.methods.der import squared_distance
from clujax.training import make_mesh

QUICK = {"steps": 4, "batch_size": 16}
ONE = {"steps": 1, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def after_one(scene, learned, change_of, plans, of):
    """`after_one(method, learn, forget) -> (network after its run, network before, plan)`."""

    def after_one(method, learn=None, forget=(), at=scene):
        rules = method.build(at)
        learner = learned(at, rules)
        (plan,) = plans(rules, learner, change_of(of(2) if learn is None else learn, forget))
        return execute(plan, key=jax.random.key(5)).params, learner.params, plan

    return after_one


@pytest.mark.parametrize(
    "method",
    [
        methods.replay(replay_weight=0.0, **QUICK),
        methods.replay(replay_weight=0.0, replay="remain", **QUICK),
        methods.der(alpha=0.0, **QUICK),
        methods.der_plus(alpha=0.0, beta=0.0, **QUICK),
        methods.ewc(strength=0.0, **QUICK),
        methods.online_ewc(strength=0.0, **QUICK),
        methods.lwf(distill_weight=0.0, **QUICK),
    ],
    ids=lambda method: f"{method.name}-{method.replay}",
)
def test_without_its_own_term_a_rival_is_finetune(method, after_one, same):
    same(after_one(method)[0], after_one(methods.finetune(**QUICK))[0])


@pytest.mark.parametrize(
    "method",
    [methods.replay(**QUICK), methods.der(**QUICK), methods.lwf(**QUICK), methods.joint(**QUICK)],
    ids=lambda method: method.name,
)
def test_with_its_own_term_a_rival_is_not_finetune(method, after_one, same):
    with pytest.raises(AssertionError):
        same(after_one(method)[0], after_one(methods.finetune(**QUICK))[0])


def test_der_plus_without_labels_is_der(after_one, same):
    same(after_one(methods.der_plus(beta=0.0, **QUICK))[0], after_one(methods.der(**QUICK))[0])


def test_joint_without_rows_to_forget_is_replay(after_one, same):
    same(after_one(methods.joint(ascent=5.0, **QUICK))[0], after_one(methods.replay(**QUICK))[0])


def test_joint_without_ascent_is_replay_on_the_rows_that_stay(after_one, same, of):
    forget = of(0)[:40]
    same(
        after_one(methods.joint(ascent=0.0, **QUICK), forget=forget)[0],
        after_one(methods.replay(**QUICK), forget=forget)[0],
    )


def test_lwf_that_knows_no_class_is_finetune(scene, after_one, of, same):
    forget = of(0, 1)
    same(after_one(methods.lwf(**QUICK), forget=forget)[0], after_one(methods.finetune(**QUICK), forget=forget)[0])


def test_a_student_that_is_its_teacher_stays(after_one, same):
    """KL(θ₀ ‖ θ) has no gradient at θ = θ₀, so that rehearsal by a teacher alone moves nothing."""
    method = methods.distill(gamma=1.0, **(QUICK | {"weight_decay": 0.0}))
    after, before, _ = after_one(method, learn=(), forget=[0])
    same(after, before)


def test_the_untrained_teacher_is_approached_on_rows_to_forget(scene, after_one, of):
    method = methods.distill(gamma=0.0, **(QUICK | {"steps": 200, "learning_rate": 0.2}))
    forget = of(0)[:40]
    after, before, plan = after_one(method, learn=(), forget=forget)
    bad = plan.stats["bad"]["params"]
    chances = lambda params: jax.nn.softmax(scene.classifier.apply(params, {}, scene.columns["x"][forget])[0])
    apart = lambda params: float(jnp.abs(chances(params) - chances(bad)).mean())
    assert apart(after) < 0.3 * apart(before)


def kl(scene, teacher, student, x, temperature=1.0, classes=slice(None)):
    """T² KL of softmax(h/T) over some classes, written out."""
    p, q = (scene.classifier.apply(params, {}, x)[0][:, classes] / temperature for params in (teacher, student))
    p, q = jax.nn.softmax(p), jax.nn.softmax(q)
    return temperature**2 * jnp.mean(jnp.sum(p * jnp.log(p / q), -1))


def written_out(name, scene, mean_ce, plan, params):
    """The loss of the first step as the papers print it."""
    batch, start, ce = plan.work(0)[0][1], plan.params, lambda rows: mean_ce(scene, params, rows)
    logits = lambda rows: scene.classifier.apply(params, {}, rows["x"])[0]
    if name == "replay":
        return ce(batch["learn"]) + 0.7 * ce(batch["replay"])
    if name == "der_plus":
        dark = jnp.mean((logits(batch["replay"]) - batch["replay"]["logits"]) ** 2)
        return ce(batch["learn"]) + 0.4 * dark + 0.6 * ce(batch["second"])
    if name == "lwf":
        return ce(batch["learn"]) + 3.0 * kl(scene, start, params, batch["learn"]["x"], 2.0, slice(0, 2))
    if name == "joint":
        return ce(batch["replay"]) + 0.8 * ce(batch["learn"]) - 2.0 * ce(batch["forget"])
    bad = plan.stats["bad"]["params"]
    good = ce(batch["learn"]) + kl(scene, start, params, batch["replay"]["x"])
    return 0.7 * good + 0.3 * kl(scene, bad, params, batch["forget"]["x"])


@pytest.mark.parametrize(
    "method",
    [
        methods.replay(replay_weight=0.7, **ONE),
        methods.der_plus(alpha=0.4, beta=0.6, **ONE),
        methods.lwf(distill_weight=3.0, **ONE),
        methods.joint(exponent=0.0, ascent=2.0, learn_weight=0.8, **ONE),
        methods.distill(gamma=0.7, **ONE),
    ],
    ids=lambda method: method.name,
)
def test_one_step_is_the_gradient_of_the_printed_loss(method, scene, after_one, of, mean_ce, same):
    after, before, plan = after_one(method, forget=of(0)[:20])
    gradient = jax.grad(lambda params: written_out(method.name, scene, mean_ce, plan, params))(before)
    same(after, jax.tree.map(lambda p, g: p - 0.1 * g, before, gradient), atol=2e-6)


def test_joint_takes_another_objective_and_its_schedule_falls_to_zero(scene, after_one, of):
    method = methods.joint(objective=random_relabel(6), ascent=3.0, **QUICK)
    after, _, plan = after_one(method, forget=of(0)[:20])
    assert [plan.work(s)[0][1]["weight"] for s in range(4)] == [3.0, 2.25, 1.5, 0.75]
    assert all(np.isfinite(np.array(leaf)).all() for leaf in jax.tree.leaves(after))


def test_clipping_bounds_the_step_of_an_ascent(after_one, of):
    wild = ONE | {"learning_rate": 1.0}
    after, before, _ = after_one(methods.joint(ascent=1e4, max_norm=0.5, **wild), forget=of(0)[:20])
    moved = sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before)))
    np.testing.assert_allclose(float(moved) ** 0.5, 0.5, rtol=1e-4)


def test_classes_that_the_head_lacked_have_no_stored_logit_and_no_gradient():
    logits, stored = jnp.arange(6.0).reshape(2, 3), jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(squared_distance)(logits, stored, jnp.array([2, 1]))
    assert float(value) == pytest.approx((1 + 0 + 9) / 3)
    np.testing.assert_allclose(gradient, [[-2 / 3, 0, 0], [2, 0, 0]], rtol=1e-6)


def test_a_mesh_of_eight_devices_changes_nothing(scene, after_one, of, same):
    spread = scene._replace(mesh=make_mesh((("data", 8),)))
    method = methods.joint(**QUICK)
    same(after_one(method, forget=of(0)[:20], at=spread)[0], after_one(method, forget=of(0)[:20])[0], atol=5e-6)
