"""MUSO on a network: labels by the closed form, its variants, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clujax.errors import RequestError
from clujax.models import from_apply
from clujax.unlearning import heads, muso, unlearn
from clujax.unlearning.methods.muso import published_ridge


def run(request, log_every=1, **settings):
    return unlearn(
        muso(**({"epochs": 2, "batch_size": 40} | settings)), request, key=jax.random.key(3), log_every=log_every
    )


@pytest.fixture(scope="module")
def with_initial(stateless):
    initial, _ = stateless.classifier.init(jax.random.key(0), jnp.asarray(stateless.remain["x"][:1]))
    return stateless._replace(initial=initial)


@pytest.fixture(scope="module")
def norm_with_initial(batch_norm):
    initial, _ = batch_norm.classifier.init(jax.random.key(0), jnp.asarray(batch_norm.remain["x"][:1]))
    return batch_norm._replace(initial=initial)


def frozen(request, **settings):
    """Labels alone: at learning rate 0 the network stays, and so do its features."""
    return run(request, inner=lambda steps: optax.sgd(0.0), **settings)


def test_labels_are_those_of_the_refitted_head(with_initial, monkeypatch):
    """The share of changed labels equals that of the closed form on the network's own features."""
    request = with_initial
    read = lambda rows: np.asarray(
        heads.with_one(request.classifier.features(request.params, request.stats, rows["x"])), np.float64
    )
    z_r, z_u = read(request.remain), read(request.forget)
    start = np.asarray(heads.head_of(request.initial, request.classifier.head), np.float64)
    targets = np.eye(4)[request.remain["y"]] - 1 / 4
    ridge = 1e-2 * np.trace(z_r.T @ z_r) / z_r.shape[1]
    head = start + np.linalg.solve(z_r.T @ z_r + ridge * np.eye(len(start)), z_r.T @ (targets - z_r @ start))
    changed = np.mean((z_u @ head).argmax(-1) != request.forget["y"])
    outcome = frozen(request)
    assert [r["relabel/changed"] for r in outcome.records if "relabel/changed" in r] == pytest.approx([changed] * 2)
    jax.tree.map(np.testing.assert_array_equal, outcome.params, request.params)


def test_published_formula_keeps_the_trained_labels(with_initial):
    """With more remaining rows than features it is finetuning on the trained network's own predictions."""
    with pytest.warns(UserWarning, match="own predictions"):
        outcome = frozen(with_initial, formula="published")
    logits, _ = with_initial.classifier.apply(with_initial.params, {}, with_initial.forget["x"])
    wrong = float(np.mean(np.asarray(logits).argmax(-1) != with_initial.forget["y"]))
    assert [r["relabel/changed"] for r in outcome.records if "relabel/changed" in r] == pytest.approx([wrong] * 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "initial"},
        {"source": "random", "pairs": 50},
        {"targets": "original"},
        {"temperature": 0.1, "drift": True},
        {"subset": 0.3, "relabel_every": 4, "ridge": published_ridge},
    ],
)
def test_every_variant_relabels_and_trains(with_initial, settings):
    outcome = run(with_initial, **settings)
    assert outcome.stats == {}
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), outcome.params, with_initial.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    rounds = [r for r in outcome.records if "relabel/changed" in r]
    steps = len(outcome.records)
    assert len(rounds) == (1 if settings.get("source") == "random" else -(-steps // settings.get("relabel_every", 6)))


def test_the_official_offset_uses_a_ridge_one_round_late():
    """Epochs 0 and 1 both take the first value, the last value is never used."""
    assert published_ridge(0.0) == pytest.approx(1e-6)
    assert published_ridge(1.0) == pytest.approx(1e-2)
    assert published_ridge(0.5) == pytest.approx((1e-2 + 1e-6) / 2)


def test_ridge_schedule_is_indexed_by_the_round_it_is_used_in(with_initial):
    asked = {}
    for offset in (False, True):
        seen = []
        schedule = lambda progress, seen=seen: seen.append(progress) or 1e-2
        frozen(with_initial, ridge=schedule, epochs=3, official_offset=offset)
        asked[offset] = seen
    assert asked == {False: [0.0, 0.5, 1.0], True: [0.0, 0.0, 0.5]}


@pytest.mark.parametrize("policy", ["train", "frozen", "refresh"])
def test_batch_norm_policies(norm_with_initial, policy):
    """Frozen averages stay; refreshed ones rest on remaining rows alone, so that the forget rows' values cannot enter."""
    request = norm_with_initial
    outcome = frozen(request, batch_norm=policy)
    assert jax.tree.structure(outcome.stats) == jax.tree.structure(request.stats)
    shifted = request._replace(forget=dict(request.forget) | {"x": request.forget["x"] + 100})
    other = frozen(shifted, batch_norm=policy)
    gap = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), outcome.stats, other.stats)))
    assert gap > 1 if policy == "train" else gap == 0
    if policy == "frozen":
        jax.tree.map(np.testing.assert_array_equal, outcome.stats, request.stats)


def test_missing_initial_parameters_are_an_error_or_a_warning(stateless):
    with pytest.raises(RequestError, match="muso needs 'initial'"):
        run(stateless)
    with pytest.warns(UserWarning, match="taken as 0"):
        run(stateless, missing_initial="zeros")
    run(stateless, source="random", pairs=20)
    bare = from_apply(lambda params, x: stateless.classifier.apply(params, {}, x)[0])
    with pytest.raises(RequestError, match="muso needs 'features'"):
        run(stateless._replace(classifier=bare, initial=stateless.params))


def test_one_class_alone_is_refused(with_initial):
    same = lambda rows: dict(rows) | {"y": np.zeros_like(rows["y"])}
    with pytest.raises(RequestError, match="two classes"):
        run(with_initial._replace(forget=same(with_initial.forget), remain=same(with_initial.remain)))


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "ntk"},
        {"formula": "woodbury"},
        {"targets": "soft"},
        {"batch_norm": "eval"},
        {"missing_initial": "guess"},
        {"epochs": 0},
        {"pairs": 0},
        {"subset": 0.0},
        {"subset": float("nan")},
        {"temperature": 0.0},
        {"ridge": -1.0},
        {"relabel_every": 0},
    ],
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        muso(**settings)
    with pytest.raises(ValueError, match="published"):
        muso(formula="published", source="random")
