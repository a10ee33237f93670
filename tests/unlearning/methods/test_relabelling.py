"""Random label, SalUn, boundary shrink and expand, UNSIR: their labels, their order, what they move and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.adaptation.losses import any_labels, wrong_labels
from clujax.adaptation.plans import float_inputs
from clujax.errors import RequestError
from clujax.models import from_apply, with_inputs
from clujax.training import init_state
from clujax.unlearning import Request, boundary_expand, boundary_shrink, random_label, salun, unlearn, unsir
from clujax.unlearning.methods.boundary import boundary_labels
from clujax.unlearning.methods.salun import summed_gradient
from clujax.unlearning.methods.unsir import learned_noise

QUICK = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02}
KEY = jax.random.key(4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3, 10, 200, 256]), st.sampled_from([np.uint8, np.int32]))
def test_wrong_labels_are_wrong_in_every_integer_type(seed, classes, dtype):
    labels = jnp.asarray(np.arange(512) % classes, dtype)
    drawn = wrong_labels(jax.random.key(seed), labels, classes)
    assert drawn.dtype == dtype
    assert not np.any(drawn == labels)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < classes


def test_both_laws_are_uniform():
    """20,000 draws of 4 labels: frequencies within five standard deviations."""
    labels = jnp.ones(20_000, jnp.int32)
    for law, expected in ((any_labels, [0.25] * 4), (wrong_labels, [1 / 3, 0, 1 / 3, 1 / 3])):
        share = np.bincount(np.asarray(law(KEY, labels, 4)), minlength=4) / 20_000
        np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / 20_000))


def test_labels_are_drawn_once_and_only_for_forget_rows(stateless):
    plan = random_label(epochs=3, batch_size=48).prepare(stateless, KEY)
    seen = {}
    for s in range(plan.num_steps):
        ((_, batch),) = plan.work(s)
        for row in range(48):
            seen.setdefault(batch["x"][row].tobytes(), set()).add(
                (int(batch["y"][row]), int(batch["own"][row]), bool(batch["forget"][row]))
            )
    assert len(seen) == 240
    assert all(len(values) == 1 for values in seen.values())
    values = [next(iter(v)) for v in seen.values()]
    assert sum(forget for _, _, forget in values) == 48
    assert all((label == own) != forget for label, own, forget in values)


@pytest.mark.parametrize("order", ["shuffled", "forget_first"])
def test_random_label_is_descent_on_its_labels(stateless, by_hand, losses, same, order):
    method = random_label(order=order, **QUICK)
    loss = lambda p, batch, name: jnp.mean(losses(stateless, p, batch))
    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss))


def test_redrawn_labels_change_from_step_to_step(stateless):
    """At learning rate 0 the loss of a full batch of forget rows varies only through its labels."""
    still = {"learning_rate": 0.0, "epochs": 2, "batch_size": 48, "order": "forget_first"}
    for redraw in (False, True):
        outcome = unlearn(random_label(redraw=redraw, **still), stateless, key=KEY, log_every=1)
        values = [r["forget/loss"] for r in outcome.records if "forget/loss" in r]
        assert len(values) == 2
        assert (values[0] == pytest.approx(values[1], rel=1e-5)) != redraw


def test_forget_first_shows_all_forget_batches_before_the_remaining_ones(stateless):
    plan = random_label(order="forget_first", epochs=2, batch_size=24).prepare(stateless, KEY)
    names = [plan.work(s)[0][0] for s in range(plan.num_steps)]
    assert names == (["forget"] * 2 + ["remain"] * 8) * 2
    for epoch in range(2):
        rows = [plan.work(10 * epoch + s)[0][1] for s in range(10)]
        for part, count in ((rows[:2], 48), (rows[2:], 192)):
            assert len({row.tobytes() for batch in part for row in np.asarray(batch["x"])}) == count
    assert all(bool(np.all(np.asarray(batch["forget"]) == (i < 2))) for i, batch in enumerate(rows))


def test_salun_on_all_weights_is_random_label(stateless, same):
    a, b = (unlearn(m, stateless, key=KEY) for m in (salun(fraction=1.0, **QUICK), random_label(**QUICK)))
    same(a.params, b.params, 1e-7)


def linear_request(weights, dtype=jnp.float32, rows=24):
    """A softmax regression on rows of 3 numbers."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.1, 0.9, (rows, 3)).astype(np.float32), rng.integers(0, 4, rows).astype(np.int32)
    part = lambda chosen: {"x": x[chosen], "y": y[chosen]}
    apply = lambda params, inputs: inputs.astype(dtype) @ params["w"] + params["b"]
    params = {"w": jnp.asarray(weights, dtype), "b": jnp.zeros(4, dtype)}
    return Request(from_apply(apply), params, {}, part(slice(0, 8)), part(slice(8, None)), 4)


WEIGHTS = np.random.default_rng(1).normal(size=(3, 4))


def test_salun_breaks_ties_by_place_and_counts_exactly():
    """A weight that no input reaches has saliency 0: among equals the first are chosen, ⌊τ P⌋ in all."""
    request = linear_request(WEIGHTS)
    request = request._replace(forget=request.forget | {"x": request.forget["x"] * [1, 0, 0]})
    outcome = unlearn(salun(fraction=0.7, epochs=1, batch_size=8), request, key=KEY)
    saliency = jax.tree.map(jnp.abs, summed_gradient(request, 8))
    flat = np.concatenate([np.ravel(saliency["b"]), np.ravel(saliency["w"])])
    assert np.sum(flat == 0) == 8
    expected = np.zeros(16, bool)
    expected[np.argsort(-flat, kind="stable")[:11]] = True
    assert outcome.facts["density"]["total"] == 11 / 16
    moved = np.concatenate([np.ravel(outcome.params[n] != request.params[n]) for n in "bw"])
    assert not np.any(moved & ~expected)
    assert moved.sum() == 11  # weight decay and remaining rows move all that the mask lets through


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_salun_in_any_dtype_keeps_the_rest_to_the_bit(dtype):
    request = linear_request(WEIGHTS, dtype)
    outcome = unlearn(salun(fraction=0.25, epochs=3, batch_size=8, learning_rate=0.3), request, key=KEY)
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), outcome.params, request.params)
    assert outcome.params["w"].dtype == dtype
    assert 1 <= sum(leaf.sum() for leaf in jax.tree.leaves(moved)) <= 4


def test_boundary_labels_of_a_linear_network_in_closed_form():
    """∇ₓ CE = W(p − e_y): the label after the step, clipped to the rows' range, by numpy."""
    request = linear_request(3 * WEIGHTS)
    x, y = request.forget["x"], request.forget["y"]
    logits = x @ (3 * WEIGHTS).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    low, high = x.min(), x.max()
    moved = np.clip(x + 0.4 * (high - low) * np.sign((p - np.eye(4)[y]) @ (3 * WEIGHTS).T), low, high)
    found = boundary_labels(request.classifier, request.params, {}, jnp.asarray(x), jnp.asarray(y), 0.4)
    np.testing.assert_array_equal(found, (moved @ (3 * WEIGHTS)).argmax(1))
    assert np.any(found != logits.argmax(1))
    unmoved = boundary_labels(request.classifier, request.params, {}, jnp.asarray(x), jnp.asarray(y), 0.0)
    np.testing.assert_array_equal(unmoved, logits.argmax(1))


@pytest.mark.parametrize("divides", [False, True])
def test_pixels_are_read_as_the_network_reads_them(divides):
    """Integer pixels for a network that divides them by 255, and for one that does not: the same labels from both."""
    base = linear_request(3 * WEIGHTS)
    unit = lambda x: x / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x
    plain = lambda x: x.astype(jnp.float32) / 255
    pixels = np.round(255 * base.forget["x"]).astype(np.uint8)
    request = base._replace(classifier=with_inputs(base.classifier, unit if divides else plain))
    floats, grey = float_inputs(request, pixels)
    assert grey == pytest.approx(1 / 255 if divides else 1.0)
    np.testing.assert_allclose(floats, pixels * grey, rtol=1e-6)
    y = jnp.asarray(base.forget["y"])
    found = boundary_labels(request.classifier, request.params, {}, floats, y, 0.1, grey)
    logits = pixels / 255 @ (3 * WEIGHTS)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    step = np.clip(np.round(pixels + 25.5 * np.sign((p - np.eye(4)[y]) @ (3 * WEIGHTS).T)), 0, 255)
    agree = np.mean(np.asarray(found) == (step / 255 @ (3 * WEIGHTS)).argmax(1))
    assert agree == 1


def test_pixels_that_cannot_be_floats_are_refused():
    request = linear_request(WEIGHTS)
    table = lambda x: jnp.sin(x / 7.0) if jnp.issubdtype(x.dtype, jnp.integer) else x * 0 + 99.0
    request = request._replace(classifier=with_inputs(request.classifier, table))
    with pytest.raises(RequestError, match="float inputs"):
        float_inputs(request, np.full((4, 3), 9, np.uint8))


def test_boundary_shrink_learns_its_labels_from_forget_rows_alone(whole_class, by_hand, losses, same):
    method = boundary_shrink(radius=0.3, **QUICK)
    outcome = unlearn(method, whole_class, key=KEY)
    loss = lambda p, batch, name: jnp.mean(losses(whole_class, p, batch))
    same(outcome.params, by_hand(method, whole_class, KEY, loss))
    poisoned = whole_class._replace(remain=whole_class.remain | {"x": np.full_like(whole_class.remain["x"], np.nan)})
    jax.tree.map(np.testing.assert_array_equal, unlearn(method, poisoned, key=KEY).params, outcome.params)
    assert 0 < outcome.facts["relabelled"] <= 1


def test_boundary_expand_adds_a_class_and_drops_it(whole_class, same, by_hand):
    method = boundary_expand(**QUICK)
    outcome = unlearn(method, whole_class, key=KEY)
    assert jax.tree.map(jnp.shape, outcome.params) == jax.tree.map(jnp.shape, whole_class.params)
    logits, _ = whole_class.classifier.apply(outcome.params, {}, whole_class.forget["x"])
    assert logits.shape[1] == 4

    def loss(p, batch, name):
        own, extra = p["network"], p["extra"]
        logits, _ = whole_class.classifier.apply(own, {}, batch["x"])
        hidden = jnp.maximum(
            batch["x"].reshape(len(batch["x"]), -1) @ own["layers_0"]["kernel"] + own["layers_0"]["bias"], 0
        )
        fifth = hidden @ extra["kernel"] + extra["bias"]
        return jnp.mean(jax.scipy.special.logsumexp(jnp.c_[logits, fifth], axis=1) - fifth)

    same(outcome.params, by_hand(method, whole_class, KEY, loss)["network"])


@pytest.mark.parametrize("method", [boundary_shrink, boundary_expand, unsir])
def test_class_methods_refuse_random_rows_unless_forced(stateless, whole_class, method):
    with pytest.raises(RequestError, match="needs 'classes'"):
        unlearn(method(), stateless, key=KEY)
    small = {"epochs": 1} if method is not unsir else {"noise_images": 4, "noise_steps": 1, "copies": 1, "per_class": 8}
    unlearn(method(force=True, batch_size=16, **small), stateless, key=KEY)
    unlearn(method(batch_size=16, **small), whole_class, key=KEY)


NOISE = {"noise_images": 4, "noise_steps": 3, "copies": 5, "per_class": 10, "batch_size": 10}


def test_unsir_impairs_then_repairs(whole_class):
    """Pass one: each noise image `copies` times as its class, among `per_class` rows of each other class; then those rows."""
    plan = unsir(**NOISE).prepare(whole_class, KEY)
    names = [[name for name, _ in plan.work(s)] for s in range(plan.num_steps)]
    assert names == [["impair"]] * 5 + [["restart", "repair"]] + [["repair"]] * 2
    passes = {
        kind: [
            (row.tobytes(), int(y)) for s in chosen for row, y in zip(*map(np.asarray, batch_of(plan, s)), strict=True)
        ]
        for kind, chosen in (("impair", range(5)), ("repair", range(5, 8)))
    }
    noise = [row for row, y in passes["impair"] if y == 3]
    assert len(noise) == 20
    assert sorted(noise.count(row) for row in set(noise)) == [5] * 4
    assert sorted(row for row in passes["impair"] if row[1] != 3) == sorted(passes["repair"])
    assert np.bincount([y for _, y in passes["repair"]], minlength=4).tolist() == [10, 10, 10, 0]
    known = {row.tobytes() for row in whole_class.remain["x"]}
    assert {row for row, _ in passes["repair"]} <= known


def batch_of(plan, s):
    batch = plan.work(s)[-1][1]
    return batch["x"], batch["y"]


def test_unsir_is_adam_twice(whole_class, losses, same):
    """Each pass at its own rate, moments fresh in the second: two plain Adams, one after the other."""
    method = unsir(impair_rate=0.01, repair_rate=0.003, **NOISE)
    plan = method.prepare(whole_class, jax.random.split(KEY)[0])
    params = whole_class.params
    for rate, chosen in ((0.01, range(5)), (0.003, range(5, 8))):
        tx = optax.adam(rate)
        state = tx.init(params)
        for s in chosen:
            batch = plan.work(s)[-1][1]
            gradient = jax.grad(lambda p, batch=batch: jnp.mean(losses(whole_class, p, batch)))(params)
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
    same(unlearn(method, whole_class, key=KEY).params, params)


def test_unsir_noise_is_unlike_its_class(whole_class, losses):
    """25 steps raise the loss of the noise for its class above where it began."""
    x, y = jnp.asarray(whole_class.remain["x"]), jnp.full(8, 3, jnp.int32)
    values = [
        float(
            jnp.mean(
                losses(whole_class, whole_class.params, {"x": learned_noise(whole_class, x, y, KEY, n, 0.1), "y": y})
            )
        )
        for n in (0, 25)
    ]
    assert values[1] > values[0] + 1


def test_unsir_on_pixels_of_a_network_that_divides_them(whole_class):
    """Noise and rows reach such a network as floats in [0, 1], not as 0 to 255."""
    unit = lambda x: x / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x
    pixels = lambda rows: rows | {"x": np.clip(40 * rows["x"] + 128, 0, 255).astype(np.uint8)}
    request = whole_class._replace(
        classifier=with_inputs(whole_class.classifier, unit),
        forget=pixels(whole_class.forget),
        remain=pixels(whole_class.remain),
    )
    plan = unsir(**NOISE).prepare(request, KEY)
    for s in range(5, 8):
        x, _ = batch_of(plan, s)
        assert 0.2 < float(x.max()) <= 1
    state = init_state(plan.params, plan.stats, plan.tx, KEY)
    _, metrics = plan.steps["impair"](state, plan.work(0)[0][1])
    assert bool(metrics["finite"])


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (unsir, {"repair_rate": -1.0}),
        (unsir, {"noise_images": 0}),
        (boundary_shrink, {"radius": float("nan")}),
        (boundary_expand, {"epochs": -1.0}),
        (salun, {"fraction": float("nan")}),
        (salun, {"labels": "true"}),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)
