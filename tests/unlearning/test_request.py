"""What cannot be carried out is refused before any work, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.importance import fisher_diagonals, load_diagonals, save_diagonals
from clujax.errors import CheckpointError, RequestError
from clujax.models import from_apply, mlp
from clujax.unlearning import Request, adaptive_ascent, check_request, sfron, unlearn


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4, 4, 1)).astype(np.float32)
    y = rng.integers(0, 3, 40).astype(np.int32)
    classifier = mlp(num_classes=3, widths=(8,))
    params, stats = classifier.init(jax.random.key(0), x[:1])
    index = np.arange(40)
    part = lambda rows: {"x": x[rows], "y": y[rows], "index": index[rows]}
    return Request(classifier, params, stats, part(slice(0, 10)), part(slice(10, 40)), 3)


def changed(request, side, **columns):
    return request._replace(**{side: dict(getattr(request, side)) | columns})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: changed(r, "forget", x=r.forget["x"][:0], y=r.forget["y"][:0]), "forget has no rows"),
        (lambda r: changed(r, "remain", x=r.remain["x"][:0], y=r.remain["y"][:0]), "remain has no rows"),
        (lambda r: changed(r, "forget", y=r.forget["y"] + 3), r"forget\['y'\] spans .* \[0, 3\)"),
        (lambda r: changed(r, "forget", y=r.forget["y"].astype(float)), "integer class labels"),
        (lambda r: changed(r, "remain", y=r.remain["y"][:5]), "30 inputs but 5 labels"),
        (lambda r: r._replace(remain={"x": r.remain["x"]}), "missing: y"),
        (lambda r: changed(r, "remain", index=r.remain["index"] - 5), "5 rows are in both"),
        (lambda r: r._replace(params=jax.tree.map(lambda p: p.at[0].set(jnp.nan), r.params)), "NaN or Inf"),
    ],
)
def test_bad_requests_are_refused(request_, change, words):
    with pytest.raises(RequestError, match=words):
        check_request(change(request_))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"repair": 0},
        {"ascent": -1.0},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"max_norm": 0.0},
        {"slow_step": 1.5},
        {"slow_per": "epoch"},
        {"fisher": "exact"},
        {"weight_decay": float("nan")},
        {"remain_weight": -1.0},
    ],
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        sfron(**settings)


@pytest.mark.parametrize("settings", [{"exponent": -0.5}, {"floor": -1e-3}, {"exponent": float("nan")}])
def test_bad_coefficients_are_refused_before_any_work(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        adaptive_ascent(**settings)


def test_mask_of_nothing_is_refused(request_):
    """A threshold no weight reaches leaves nothing to unlearn."""
    with pytest.raises(ValueError, match="mask"):
        unlearn(sfron(steps=2, threshold=1e30), request_, key=jax.random.key(0))


def test_losses_of_the_wrong_shape_are_refused(request_):
    scalar = adaptive_ascent(losses=lambda logits, labels, key: jnp.mean(logits))
    with pytest.raises(ValueError, match="one value per row"):
        unlearn(sfron(steps=2, objective=scalar), request_, key=jax.random.key(0))


def test_stale_importances_are_refused(request_, tmp_path):
    options = {"kind": "batch", "batch_size": 8}
    diagonals = fisher_diagonals(request_, key=jax.random.key(0), **options)
    save_diagonals(tmp_path / "fisher.npz", diagonals, request_, **options)
    again = load_diagonals(tmp_path / "fisher.npz", request_, **options)
    jax.tree.map(np.testing.assert_array_equal, again, diagonals)
    moved = request_._replace(params=jax.tree.map(lambda p: p + 1, request_.params))
    for stale, stale_options in ((moved, options), (request_, options | {"batch_size": 4})):
        with pytest.raises(CheckpointError, match="another network, split or batch size"):
            load_diagonals(tmp_path / "fisher.npz", stale, **stale_options)


@pytest.mark.parametrize(
    ("need", "change"),
    [
        ("remain", lambda r: r._replace(remain=None)),
        ("validation", lambda r: r),
        ("initial", lambda r: r),
        ("init", lambda r: r._replace(classifier=from_apply(lambda p, x: x))),
        ("features", lambda r: r._replace(classifier=from_apply(lambda p, x: x))),
        ("classes", lambda r: r),
    ],
)
def test_a_missing_need_is_named(request_, need, change):
    with pytest.raises(RequestError, match=f"mine needs '{need}'"):
        check_request(change(request_), {"forget", need}, "mine")
