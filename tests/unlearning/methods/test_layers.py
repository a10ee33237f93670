"""CF-k, EU-k and l1-sparse: what is frozen to the bit, what begins anew, and how the penalty falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.losses import l1_penalty
from clujax.errors import RequestError
from clujax.models import from_apply, mlp, resnet, vit
from clujax.unlearning import cf_k, eu_k, l1_sparse, retrain, unlearn
from clujax.unlearning.methods.l1_sparse import falling
from clujax.unlearning.methods.layers import last_layers

KEY = jax.random.key(4)


@pytest.mark.parametrize("method", [cf_k, eu_k])
@pytest.mark.parametrize(("k", "moving"), [(1, {"head"}), (2, {"head", "convs_0", "norms_0"})])
def test_frozen_layers_keep_every_bit_their_averages_too(batch_norm, method, k, moving):
    outcome = unlearn(method(k=k, epochs=2, batch_size=32, weight_decay=0.1), batch_norm, key=KEY)
    assert set(batch_norm.params) == {"head", "convs_0", "norms_0"}
    for name, part in batch_norm.params.items():
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), outcome.params[name], part)
        assert (min(jax.tree.leaves(gaps)) > 0) == (name in moving), name
    mean = np.abs(
        np.asarray(outcome.stats["batch_stats"]["norms_0"]["mean"] - batch_norm.stats["batch_stats"]["norms_0"]["mean"])
    )
    assert (mean.max() > 0) == (k == 2)


def test_cf_k_of_all_layers_descends_and_of_one_is_a_head(stateless, by_hand, losses, same):
    """All layers: finetuning. The last: logistic regression on the features of the original network."""
    for k in (1, 2):
        method = cf_k(k=k, epochs=2, batch_size=32)

        def loss(p, batch, name, k=k):
            free = p if k == 2 else stateless.params | {"head": p["head"]}
            return jnp.mean(losses(stateless, free, batch))

        expected = by_hand(method, stateless, KEY, loss)
        same(unlearn(method, stateless, key=KEY).params, expected)


def test_eu_k_forgets_where_its_layers_were(stateless):
    """Other weights in the layers that begin anew, same result; and all layers anew are a retrained network's start."""
    elsewhere = stateless._replace(
        params=stateless.params | {"head": jax.tree.map(lambda p: p + 3, stateless.params["head"])}
    )
    a, b = (unlearn(eu_k(epochs=1, batch_size=32), r, key=KEY) for r in (stateless, elsewhere))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    recipe = {"epochs": 1, "batch_size": 32}
    fresh, reference = (m.prepare(stateless, KEY) for m in (eu_k(k=2, **recipe), retrain(**recipe)))
    jax.tree.map(np.testing.assert_array_equal, fresh.params, reference.params)


def test_last_layers_of_the_library_models():
    x = jnp.zeros((1, 8, 8, 3))
    for classifier, k, expected in (
        (mlp(4, widths=(8, 8)), 2, {"head", "layers_1"}),
        (resnet(4, depth=18, width=2), 3, {"head", "blocks_6", "blocks_7"}),
        (vit(4, image_size=8, patch=4, width=8, depth=2, num_heads=2), 2, {"head", "blocks_1"}),
    ):
        params = jax.eval_shape(lambda c=classifier: c.init(jax.random.key(0), x)[0])
        assert last_layers(params, k, "head") == expected


def test_layers_that_are_not_there_are_refused(stateless):
    with pytest.raises(RequestError, match="k is 3; expected 1 to 2 layers"):
        unlearn(cf_k(k=3), stateless, key=KEY)
    with pytest.raises(RequestError, match=r"order names \['stem'\]"):
        unlearn(cf_k(order=[["stem"], ["head"]]), stateless, key=KEY)
    flat = from_apply(lambda params, x: x.reshape(len(x), -1) @ params)
    with pytest.raises(RequestError, match="not a mapping"):
        unlearn(cf_k(), stateless._replace(classifier=flat, params=jnp.ones((16, 4))), key=KEY)
    with pytest.raises(RequestError, match="eu_k needs 'init'"):
        unlearn(eu_k(), stateless._replace(classifier=from_apply(lambda p, x: x)), key=KEY)


def test_a_given_order_replaces_the_guess(stateless):
    """Only the first layer moves when the order says that it is the last."""
    outcome = unlearn(cf_k(order=[["head"], ["layers_0"]], epochs=1, batch_size=32), stateless, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, outcome.params["head"], stateless.params["head"])
    assert np.any(outcome.params["layers_0"]["kernel"] != stateless.params["layers_0"]["kernel"])


def test_the_penalty_falls_by_whole_passes_to_zero():
    """100 passes of 7 steps, where shares of the run round: pass 29 is pass 29."""
    from clujax.models import from_apply
    from clujax.unlearning import Request

    rows = {"x": np.zeros((13, 2), np.float32), "y": np.zeros(13, np.int32)}
    request = Request(from_apply(lambda p, x: x @ p), jnp.zeros((2, 2)), {}, rows, rows, 2)
    plan = l1_sparse(strength=1.0, free=40, epochs=100, batch_size=2).prepare(request, KEY)
    seen = [plan.work(s)[0][1]["strength"] for s in range(plan.num_steps)]
    np.testing.assert_allclose(seen, np.repeat(np.maximum(1 - np.arange(100) / 60, 0), 7), atol=1e-12)
    assert seen[60 * 7 - 1] > 0 == seen[60 * 7]
    assert falling(1.0, 10, 10.0) == 0.0


def test_l1_sparse_adds_the_sign_of_every_weight(stateless, by_hand, losses, same):
    method = l1_sparse(strength=1e-2, epochs=3, batch_size=32, learning_rate=0.02)

    def loss(p, batch, name):
        size = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(p))
        return jnp.mean(losses(stateless, p, batch)) + batch["strength"] * size

    outcome = unlearn(method, stateless, key=KEY)
    same(outcome.params, by_hand(method, stateless, KEY, loss))
    size = lambda p: sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(p))
    assert size(outcome.params) < size(stateless.params)


def test_the_penalty_is_summed_in_float32():
    """In bfloat16 a running sum stops at 256 ones."""
    leaf = jnp.ones(10_000, jnp.bfloat16)
    assert float(l1_penalty({"a": leaf, "b": -leaf}, 0.5)) == 10_000
