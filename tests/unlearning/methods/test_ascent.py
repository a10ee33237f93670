"""Gradient ascent, NegGrad+, NPO and SimNPO against plain steps, and their losses against limits and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.adaptation.losses import npo_loss, sim_npo_loss
from clujax.adaptation.method import execute
from clujax.training import NonFiniteError
from clujax.unlearning import finetune, gradient_ascent, neg_grad_plus, npo, sim_npo, unlearn

QUICK = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02}
KEY = jax.random.key(4)


@pytest.mark.parametrize("max_norm", [0.1, None])
def test_gradient_ascent_climbs_the_forget_loss(stateless, by_hand, losses, same, max_norm):
    method = gradient_ascent(max_norm=max_norm, **QUICK)
    outcome = unlearn(method, stateless, key=KEY)
    expected = by_hand(method, stateless, KEY, lambda p, batch, name: -jnp.mean(losses(stateless, p, batch)))
    same(outcome.params, expected)
    rows = {"x": stateless.forget["x"], "y": stateless.forget["y"]}
    assert jnp.mean(losses(stateless, outcome.params, rows)) > jnp.mean(losses(stateless, stateless.params, rows))


def test_gradient_ascent_never_reads_the_remaining_rows(stateless):
    poisoned = stateless._replace(remain=stateless.remain | {"x": np.full_like(stateless.remain["x"], np.nan)})
    a, b = (unlearn(gradient_ascent(**QUICK), r, key=KEY) for r in (stateless, poisoned))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_gradient_ascent_moves_batch_norm_averages_when_asked(batch_norm):
    moved = {}
    for train in (False, True):
        stats = unlearn(gradient_ascent(train=train, **QUICK), batch_norm, key=KEY).stats
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), stats, batch_norm.stats)
        moved[train] = max(jax.tree.leaves(gaps))
    assert moved[False] == 0 < moved[True]


def test_neg_grad_plus_weighs_both_sides(stateless, by_hand, losses, same):
    method = neg_grad_plus(keep=0.7, **QUICK)

    def loss(p, batch, name):
        keep, go = (jnp.mean(losses(stateless, p, batch[side])) for side in ("remain", "forget"))
        return 0.7 * keep - 0.3 * go

    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss))


def test_neg_grad_plus_that_keeps_all_is_finetuning_on_its_batches(stateless, by_hand, losses, same):
    method = neg_grad_plus(keep=1.0, **QUICK)
    loss = lambda p, batch, name: jnp.mean(losses(stateless, p, batch["remain"]))
    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss))


def test_a_pass_is_one_over_the_remaining_rows_and_forget_batches_cycle(stateless):
    plan = neg_grad_plus(epochs=1, batch_size=32).prepare(stateless, KEY)
    assert plan.num_steps == 6
    batches = [plan.work(s)[0][1] for s in range(6)]
    count = lambda side, rows: np.sum(
        [np.all(row == batch[side]["x"], (1, 2, 3)).sum() for batch in batches for row in rows["x"]]
    )
    assert count("remain", stateless.remain) == count("forget", stateless.forget) == 6 * 32


def test_an_ascent_that_diverges_stops(stateless):
    """Without clipping and at a huge rate the loss leaves float32; the run says so instead of returning NaN."""
    with pytest.raises(NonFiniteError):
        unlearn(gradient_ascent(max_norm=None, epochs=200, batch_size=32, learning_rate=1e30), stateless, key=KEY)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 20.0), st.floats(0.0, 20.0), st.floats(1e-3, 50.0))
def test_npo_is_its_formula_and_bounded(loss, reference, strength):
    with jax.enable_x64(True):
        row = lambda value: jnp.array([value], jnp.float64)
        value = float(npo_loss(row(loss), row(reference), strength)[0])
        slope = float(jax.grad(lambda x: npo_loss(x, row(reference), strength)[0])(row(loss))[0])
        assert value == pytest.approx(2 / strength * np.logaddexp(0, -strength * (loss - reference)), rel=1e-12)
        assert value >= 0
        assert -2 <= slope <= 0
        np.testing.assert_allclose(slope, -2 / (1 + np.exp(strength * (loss - reference))), rtol=1e-9)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_npo_at_the_reference_has_the_gradient_of_ascent(x64, strength):
    values = jnp.array([0.1, 2.0, 5.0])
    slope = jax.grad(lambda x: npo_loss(x, values, strength).sum())(values)
    np.testing.assert_allclose(slope, -np.ones(3), rtol=1e-12)


def test_npo_of_no_strength_is_ascent(x64):
    """β → 0: the gradient goes to that of −ℓ at the rate of β/2 times the distance."""
    values, reference = jnp.array([0.1, 2.0, 5.0]), jnp.array([3.0, 1.0, 0.0])
    for strength in (1e-2, 1e-4, 1e-6):
        slope = jax.grad(lambda x, s=strength: npo_loss(x, reference, s).sum())(values)
        np.testing.assert_allclose((slope + 1) / strength, (values - reference) / 2, atol=2 * strength)


def test_sim_npo_is_npo_against_a_margin(x64):
    values = jnp.array([0.1, 2.0, 5.0])
    np.testing.assert_array_equal(sim_npo_loss(values, 2.0, 0.5), npo_loss(values, jnp.full(3, 0.5), 2.0))


def test_npo_and_sim_npo_descend_their_objective(stateless, by_hand, losses, same):
    def loss(forgetting):
        def of(p, batch, name):
            own = losses(stateless, p, batch["forget"])
            reference = losses(stateless, stateless.params, batch["forget"])
            return jnp.mean(forgetting(own, reference)) + 0.5 * jnp.mean(losses(stateless, p, batch["remain"]))

        return of

    softplus = lambda x: jnp.log1p(jnp.exp(x))
    cases = (
        (npo(strength=2.0, remain_weight=0.5, **QUICK), lambda own, ref: softplus(-2.0 * (own - ref))),
        (sim_npo(strength=2.0, margin=1.0, remain_weight=0.5, **QUICK), lambda own, ref: softplus(-2.0 * (own - 1.0))),
    )
    for method, forgetting in cases:
        outcome = unlearn(method, stateless, key=KEY)
        assert outcome.stats == {}
        same(outcome.params, by_hand(method, stateless, KEY, loss(forgetting)))


def test_npo_compares_both_networks_on_the_same_augmented_inputs(stateless):
    """At the start ℓ = ℓ_original whatever the augmentation draws, so the first gradient does not depend on β."""
    noisy = stateless._replace(augment=lambda key, x: x + jax.random.normal(key, x.shape))
    norms = [
        unlearn(npo(strength=s, remain_weight=0.0, **QUICK), noisy, key=KEY, log_every=1).records[0]["both/grad_norm"]
        for s in (1e-2, 1e2)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_npo_holds_the_remaining_rows_where_ascent_does_not(batch_norm):
    """The reference is the original network in eval mode, kept as it was while the student's averages move."""
    plan = npo(**QUICK).prepare(batch_norm, KEY)
    outcome = execute(plan, key=KEY)
    assert jax.tree.structure(outcome.stats) == jax.tree.structure(batch_norm.stats)
    jax.tree.map(np.testing.assert_array_equal, plan.stats["teacher"]["stats"], batch_norm.stats)


@pytest.mark.parametrize("setting", [{"max_norm": 0.0}, {"epochs": -1}, {"learning_rate": float("nan")}])
def test_gradient_ascent_refuses(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        gradient_ascent(**setting)


@pytest.mark.parametrize("setting", [{"strength": -1.0}, {"strength": float("nan")}, {"remain_weight": -0.5}])
def test_sim_npo_refuses(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        sim_npo(**setting)


def test_finetune_is_plain_descent(stateless, by_hand, losses, same):
    method = finetune(**QUICK)
    loss = lambda p, batch, name: jnp.mean(losses(stateless, p, batch))
    same(unlearn(method, stateless, key=KEY).params, by_hand(method, stateless, KEY, loss))
