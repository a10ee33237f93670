"""Every method once, on a network without state and on one with BatchNorm; what each needs and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.errors import RequestError
from clujax.unlearning import (
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cf_k,
    eu_k,
    finetune,
    fisher_forgetting,
    influence,
    l1_sparse,
    neg_grad_plus,
    npo,
    ntk,
    random_label,
    rum,
    salun,
    scrub,
    scrub_r,
    sim_npo,
    ssd,
    unlearn,
    unsir,
)

QUICK = {
    "neg_grad_plus": lambda: neg_grad_plus(epochs=1, batch_size=32),
    "npo": lambda: npo(epochs=1, batch_size=32),
    "sim_npo": lambda: sim_npo(epochs=1, batch_size=32),
    "random_label_any": lambda: random_label(labels="any", redraw=True, epochs=1, batch_size=32),
    "random_label_forget_first": lambda: random_label(order="forget_first", epochs=1, batch_size=32),
    "salun_any": lambda: salun(labels="any", order="forget_first", redraw=True, epochs=1, batch_size=32),
    "l1_sparse": lambda: l1_sparse(epochs=1, batch_size=32),
    "fisher_golatkar": lambda: fisher_forgetting(max_rows=20),
    "fisher_empirical": lambda: fisher_forgetting(form="empirical", max_rows=20),
    "influence": lambda: influence(rows=20),
    "influence_official": lambda: influence(rows=20, variant="official"),
    "scrub": lambda: scrub(epochs=2, forget_epochs=1, batch_size=32),
    "scrub_r": lambda: scrub_r(epochs=2, forget_epochs=2, batch_size=32, learning_rate=0.05),
    "bad_teacher": lambda: bad_teacher(mean_over_classes=False, remain_fraction=0.3, epochs=1, batch_size=32),
    "unsir": lambda: unsir(noise_images=8, noise_steps=3, copies=4, per_class=20, batch_size=32, force=True),
    "boundary_shrink": lambda: boundary_shrink(epochs=1, batch_size=16, force=True),
    "boundary_expand": lambda: boundary_expand(epochs=1, batch_size=16, force=True),
    "ssd": lambda: ssd(selection=1.0, batch_size=32),
    "cf_k": lambda: cf_k(epochs=1, batch_size=32),
    "eu_k": lambda: eu_k(epochs=1, batch_size=32),
    "ntk": lambda: ntk(iterations=3, scale=0.1),
    "rum": lambda: rum(parts=(None, finetune(epochs=1, batch_size=32), salun(epochs=1, batch_size=32))),
}


@pytest.mark.parametrize("network", ["stateless", "batch_norm"])
@pytest.mark.parametrize("name", QUICK)
def test_a_method_changes_the_network_and_nothing_else(name, network, request):
    given = request.getfixturevalue(network)._replace(validation=request.getfixturevalue("validation"))
    before = jax.tree.map(np.array, (given.params, given.stats))
    outcome = unlearn(QUICK[name](), given, key=jax.random.key(1))
    assert jax.tree.map(jnp.shape, outcome.params) == jax.tree.map(jnp.shape, given.params)
    assert jax.tree.map(jnp.shape, outcome.stats) == jax.tree.map(jnp.shape, given.stats)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.array(a) - np.array(b)).max()), outcome.params, given.params)
    assert max(jax.tree.leaves(moved)) > 0 or name == "scrub_r"  # which may rewind to the start
    assert all(np.isfinite(np.array(leaf)).all() for leaf in jax.tree.leaves((outcome.params, outcome.stats)))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, (given.params, given.stats)), before)


@pytest.fixture(scope="module")
def validation():
    rng = np.random.default_rng(7)
    centres = np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    y = rng.integers(0, 4, 60).astype(np.int32)
    return {"x": (centres[y] + 1.2 * rng.normal(size=(60, 4, 4, 1))).astype(np.float32), "y": y}


@pytest.mark.parametrize(
    ("method", "need"),
    [
        (scrub_r, "validation"),
        (unsir, "classes"),
        (boundary_shrink, "classes"),
        (boundary_expand, "classes"),
        (lambda: ntk(around="initial"), "initial"),
    ],
)
def test_a_missing_need_is_named(stateless, method, need):
    with pytest.raises(RequestError, match=f"needs '{need}'"):
        unlearn(method(), stateless, key=jax.random.key(0))


@pytest.mark.parametrize("method", [neg_grad_plus, npo, random_label, l1_sparse, finetune, scrub, bad_teacher, cf_k])
@pytest.mark.parametrize("setting", [{"learning_rate": -0.1}, {"batch_size": 0}, {"weight_decay": float("nan")}])
def test_bad_training_settings_are_refused_by_name(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (neg_grad_plus, {"keep": 1.5}),
        (npo, {"strength": 0.0}),
        (npo, {"remain_weight": -1.0}),
        (random_label, {"labels": "uniform"}),
        (random_label, {"order": "last"}),
        (salun, {"fraction": 0.0}),
        (salun, {"fraction": 1.5}),
        (l1_sparse, {"strength": -1e-4}),
        (l1_sparse, {"free": 10.0}),
        (fisher_forgetting, {"strength": -1.0}),
        (fisher_forgetting, {"form": "kfac"}),
        (influence, {"variant": "woodfisher"}),
        (influence, {"rows": 0}),
        (bad_teacher, {"remain_fraction": 0.0}),
        (boundary_shrink, {"radius": -0.1}),
        (ssd, {"selection": -1.0}),
        (ssd, {"fisher": "exact"}),
        (cf_k, {"k": 0}),
        (ntk, {"ridge": 0.0}),
        (ntk, {"around": "here"}),
        (unsir, {"copies": 0}),
        (rum, {"parts": (None, None)}),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)
