"""SCRUB, SCRUB+R and bad teacher: their losses against numpy, their order, their limits, the rewind by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.adaptation.losses import distillation
from clujax.errors import RequestError
from clujax.training import init_state
from clujax.unlearning import bad_teacher, scrub, scrub_r, unlearn

QUICK = {"batch_size": 32, "learning_rate": 0.02}
KEY = jax.random.key(4)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def kl_to(request, params, batch, temperature):
    """Mean KL(original ‖ network) at a temperature, in jax without the library's loss."""
    at = lambda p: jax.nn.log_softmax(request.classifier.apply(p, request.stats, batch["x"])[0] / temperature)
    teacher = at(request.params)
    return jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - at(params)), -1))


def test_distillation_is_kl_times_the_square_of_the_temperature(x64):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 4))
    p, q = softmax(teacher / 3), softmax(student / 3)
    expected = 9 * np.sum(p * np.log(p / q), -1)
    np.testing.assert_allclose(distillation(jnp.array(student), jnp.array(teacher), 3.0), expected, rtol=1e-12)


@pytest.mark.parametrize("forget_size", [None, 16])
def test_scrub_alternates_and_descends_its_two_losses(stateless, by_hand, losses, same, forget_size):
    method = scrub(
        epochs=3,
        forget_epochs=2,
        forget_batch_size=forget_size,
        temperature=2.0,
        supervision=0.9,
        imitation=0.5,
        **QUICK,
    )
    plan = method.prepare(stateless, KEY)
    names = [plan.work(s)[0][0] for s in range(plan.num_steps)]
    first = ["forget"] * (3 if forget_size else 2) + ["remain"] * 6
    assert names == first * 2 + ["remain"] * 6
    assert plan.facts["epoch_ends"] == np.cumsum([len(first), len(first), 6]).tolist()

    def loss(p, batch, name):
        divergence = 4 * kl_to(stateless, p, batch, 2.0)
        return -divergence if name == "forget" else 0.9 * jnp.mean(losses(stateless, p, batch)) + 0.5 * divergence

    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss), 2e-5)


def test_every_pass_of_scrub_shows_every_row_once(stateless):
    plan = scrub(epochs=3, forget_epochs=2, batch_size=24).prepare(stateless, KEY)
    passes, last = [], None
    for s in range(plan.num_steps):
        ((name, batch),) = plan.work(s)
        if name != last:
            passes.append((name, set()))
        passes[-1][1].update(row.tobytes() for row in np.asarray(batch["x"]))
        last = name
        if len(passes[-1][1]) == {"forget": 48, "remain": 192}[name]:
            last = None
    assert [(name, len(rows)) for name, rows in passes] == [("forget", 48), ("remain", 192)] * 2 + [("remain", 192)]


def test_scrub_without_a_teacher_is_finetuning(stateless, by_hand, losses, same):
    """No forget pass, α = 0, γ = 1: cross-entropy on the remaining rows by the shared optimizer."""
    method = scrub(epochs=2, forget_epochs=0, imitation=0.0, supervision=1.0, **QUICK)
    loss = lambda p, batch, name: jnp.mean(losses(stateless, p, batch))
    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss))


def test_scrub_takes_another_optimizer(stateless, same):
    asked = []
    method = scrub(epochs=1, forget_epochs=1, inner=lambda steps: asked.append(steps) or optax.adam(1e-2), **QUICK)
    outcome = unlearn(method, stateless, key=KEY)
    assert asked == [8]
    # At its first step Adam moves each weight that has a gradient by the rate, and no weight by more in a few.
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), outcome.params, stateless.params)
    assert 5e-3 < max(jax.tree.leaves(moved)) < 0.1


def test_a_teacher_sees_the_augmented_inputs_of_its_student(stateless):
    """On the same inputs student and teacher agree at the start, whatever the augmentation draws: KL = 0."""
    noisy = stateless._replace(augment=lambda key, x: x + jax.random.normal(key, x.shape))
    first = unlearn(scrub(epochs=1, forget_epochs=1, **QUICK), noisy, key=KEY, log_every=1).records[0]
    assert abs(first["forget/loss"]) < 1e-6
    last = unlearn(scrub(epochs=1, forget_epochs=0, imitation=0.0, **QUICK), noisy, key=KEY, log_every=1).records[0]
    assert last["remain/loss"] > 1e-3


def test_scrub_r_returns_the_epoch_nearest_to_the_unseen_error(stateless, validation):
    """By hand: run SCRUB to each epoch's end, measure errors, choose."""
    request = stateless._replace(validation=validation)
    settings = {"epochs": 4, "forget_epochs": 4, "batch_size": 32, "learning_rate": 0.5, "momentum": 0.0}
    plan = scrub(**settings).prepare(request, jax.random.split(KEY)[0])
    state = init_state(plan.params, plan.stats, plan.tx, jax.random.split(KEY)[1])
    kept = [request.params]
    for s in range(plan.num_steps):
        ((name, batch),) = plan.work(s)
        state, _ = plan.steps[name](state, batch)
        if s + 1 in plan.facts["epoch_ends"]:
            kept.append(jax.tree.map(np.array, state.params))
    error = lambda p, rows: np.mean(
        np.asarray(request.classifier.apply(p, {}, rows["x"])[0]).argmax(-1) != np.asarray(rows["y"])
    )
    target = error(kept[-1], validation)
    errors = np.array([error(p, request.forget) for p in kept])
    chosen = int(np.argmin(np.abs(errors - target)))
    assert 0 < chosen < 4  # neither end, or the test would say little
    outcome = unlearn(scrub_r(**settings), request, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, outcome.params, kept[chosen])
    assert outcome.stats == {}


def test_scrub_r_measures_its_target_on_the_forgotten_classes_alone(whole_class, validation):
    """Validation rows of other classes, however wrong, change nothing; without a row of the class there is no target."""
    settings = {"epochs": 2, "forget_epochs": 2, "batch_size": 32, "learning_rate": 0.1}
    of_class = validation["y"] == 3
    others = validation | {"x": np.where(of_class[:, None, None, None], validation["x"], 0.0)}
    a, b = (unlearn(scrub_r(**settings), whole_class._replace(validation=v), key=KEY) for v in (validation, others))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    none = {name: column[~of_class] for name, column in validation.items()}
    with pytest.raises(RequestError, match=r"no row of the forgotten classes \[3\]"):
        unlearn(scrub_r(**settings), whole_class._replace(validation=none), key=KEY)


def competent(request):
    """A classifier whose fresh network is the trained one."""
    init = lambda key, inputs: (request.params, request.stats)
    return request._replace(classifier=request.classifier._replace(init=init))


def test_bad_teacher_with_two_competent_teachers_has_no_gradient(stateless):
    noisy = competent(stateless)._replace(augment=lambda key, x: x + jax.random.normal(key, x.shape))
    outcome = unlearn(bad_teacher(epochs=1, weight_decay=0.0, **QUICK), noisy, key=KEY, log_every=1)
    assert max(record["both/grad_norm"] for record in outcome.records) < 1e-6


@pytest.mark.parametrize("mean_over_classes", [True, False])
def test_bad_teacher_descends_kl_to_the_teacher_of_each_row(stateless, by_hand, same, mean_over_classes):
    """T = 2 without Hinton's T²; the published mean also runs over the C = 4 classes."""
    method = bad_teacher(epochs=2, temperature=2.0, mean_over_classes=mean_over_classes, **QUICK)
    prepare_key = jax.random.split(KEY)[0]
    bad = stateless.classifier.init(jax.random.split(prepare_key, 3)[0], jnp.asarray(stateless.remain["x"][:1]))[0]
    at = lambda p, batch: jax.nn.softmax(stateless.classifier.apply(p, {}, batch["x"])[0] / 2)

    def loss(p, batch, name):
        target = jnp.where(batch["forget"][:, None], at(bad, batch), at(stateless.params, batch))
        rows = jnp.sum(jax.scipy.special.xlogy(target, target) - target * jnp.log(at(p, batch)), -1)
        return jnp.mean(rows) / (4 if mean_over_classes else 1)

    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss), 1e-5)


def test_bad_teacher_uses_a_share_of_the_remaining_rows(stateless):
    plan = bad_teacher(epochs=1, remain_fraction=0.25, batch_size=32).prepare(stateless, KEY)
    assert plan.num_steps == 3  # 48 + 48 rows
    batches = [plan.work(s)[0][1] for s in range(3)]
    rows = {
        (row.tobytes(), bool(f))
        for b in batches
        for row, f in zip(*map(np.asarray, (b["x"], b["forget"])), strict=True)
    }
    assert sum(flag for _, flag in rows) == 48 == sum(not flag for _, flag in rows)


def test_teachers_stay_while_batch_norm_follows_the_student(batch_norm):
    for method in (scrub(epochs=1, forget_epochs=1, **QUICK), bad_teacher(epochs=1, **QUICK)):
        plan = method.prepare(batch_norm, KEY)
        state = init_state(plan.params, plan.stats, plan.tx, KEY)
        ((name, batch),) = plan.work(0)
        state, _ = plan.steps[name](state, batch)
        for teacher in set(plan.stats) - {"network"}:
            jax.tree.map(np.testing.assert_array_equal, state.stats[teacher], plan.stats[teacher])
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.stats["network"], batch_norm.stats)
        assert max(jax.tree.leaves(gaps)) > 0


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (scrub, {"temperature": 0.0}),
        (scrub, {"epochs": 1.5}),  # a type error where types are checked
        (scrub, {"imitation": -1.0}),
        (scrub, {"forget_batch_size": 0}),
        (scrub_r, {"supervision": float("nan")}),
        (bad_teacher, {"temperature": float("nan")}),
        (bad_teacher, {"remain_fraction": 1.5}),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting):
    with pytest.raises((ValueError, TypeError), match=next(iter(setting))):
        method(**setting)
