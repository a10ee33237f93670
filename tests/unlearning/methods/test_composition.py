"""RUM: its parts, what each sees, and that it equals its methods run by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax.adaptation.method import Method
from clujax.adaptation.plans import edited
from clujax.errors import RequestError
from clujax.unlearning import boundary_expand, finetune, influence, rum, salun, scrub_r, ssd, unlearn
from clujax.unlearning.methods.rum import original_losses, rum_from

KEY = jax.random.key(4)
QUICK = {"epochs": 1, "batch_size": 32}


def spy(seen, name):
    """A method that changes nothing and records what it was asked."""

    def prepare(request, key):
        seen.append((name, request))
        return edited(request, jax.tree.map(lambda p: p + 1, request.params))

    return Method(name, prepare, {}, frozenset({"forget", "remain"}))


@pytest.mark.parametrize("keep_waiting", [True, False])
def test_parts_go_from_the_lowest_score_and_waiting_rows_are_kept(stateless, keep_waiting):
    scores = np.random.default_rng(0).permutation(48).astype(float)
    seen = []
    method = rum(
        parts=(spy(seen, "a"), None, spy(seen, "b"), spy(seen, "c")),
        scores=lambda request: scores,
        keep_waiting=keep_waiting,
    )
    outcome = unlearn(method, stateless, key=KEY)
    ran = {name: request for name, request in seen}  # the last preparation is the one that ran
    order = np.split(np.argsort(scores), 4)
    x = stateless.forget["x"]
    for name, place, waiting in (("a", 0, 36), ("b", 2, 12), ("c", 3, 0)):
        np.testing.assert_array_equal(ran[name].forget["x"], x[order[place]])
        assert len(ran[name].remain["y"]) == 192 + (waiting if keep_waiting else 0)
        if keep_waiting and waiting:
            np.testing.assert_array_equal(ran[name].remain["x"][192:], x[np.concatenate(order[place + 1 :])])
    assert outcome.facts["sizes"] == [12] * 4
    for done, name in enumerate("abc"):
        expected = jax.tree.map(lambda p, done=done: p + done, stateless.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ran[name].params, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b + 3, rtol=1e-5, atol=1e-6), outcome.params, stateless.params
    )


@pytest.mark.parametrize(
    ("network", "parts"),
    [
        ("batch_norm", (None, finetune(**QUICK), salun(**QUICK))),
        ("stateless", (scrub_r(epochs=2, forget_epochs=1, batch_size=32), influence(rows=10))),
        ("stateless", (ssd(selection=1.0, batch_size=32), None, boundary_expand(force=True, epochs=1, batch_size=8))),
    ],
    ids=["published", "kept epochs and an edit", "an extra logit"],
)
def test_rum_is_its_methods_by_hand(network, validation, parts, request):
    request = request.getfixturevalue(network)._replace(validation=validation)
    outcome = unlearn(rum(parts=parts), request, key=KEY)
    order = np.array_split(np.argsort(original_losses(request), kind="stable"), len(parts))
    take = lambda rows: {name: request.forget[name][rows] for name in ("x", "y")}
    params, stats, key = request.params, request.stats, jax.random.split(KEY)[0]
    for i, method in enumerate(parts):
        if method is None:
            continue
        waiting = take(np.concatenate([np.array([], int), *order[i + 1 :]]))
        remain = {n: np.concatenate([request.remain[n], waiting[n]]) for n in ("x", "y")}
        part = request._replace(params=params, stats=stats, forget=take(order[i]), remain=remain)
        done = unlearn(method, part, key=jax.random.fold_in(key, i))
        params, stats = done.params, done.stats
    jax.tree.map(np.testing.assert_array_equal, outcome.params, params)
    jax.tree.map(np.testing.assert_array_equal, outcome.stats, stats)


def test_default_scores_are_the_losses_of_the_original_network(stateless, losses):
    rows = {name: stateless.forget[name] for name in ("x", "y")}
    np.testing.assert_allclose(original_losses(stateless), losses(stateless, stateless.params, rows), atol=1e-6)


def test_a_config_names_its_parts():
    build = lambda values: {"finetune": finetune, "salun": salun}[values["method"]](
        **{k: v for k, v in values.items() if k != "method"}
    )
    values = ["", {"method": "finetune", "epochs": 1}, {"method": "salun", "fraction": 0.3}]
    method = rum_from(values, build, keep_waiting=False)
    parts = method.settings["parts"]
    assert not parts[0]
    assert (parts[1]["method"], parts[1]["epochs"], parts[2]["fraction"]) == ("finetune", 1, 0.3)
    assert method.settings["keep_waiting"] is False
    with pytest.raises(ValueError, match=r"parts\[1\] is 'finetune'; expected a method's values"):
        rum_from(["", "finetune"], build)


def test_requests_that_cannot_be_split_are_refused(stateless):
    parts = (finetune(**QUICK), finetune(**QUICK))
    for scores, words in ((np.ones(5), r"shape \(5,\)"), (np.full(48, np.nan), "48 NaN or Inf")):
        with pytest.raises(RequestError, match=words):
            unlearn(rum(parts=parts, scores=lambda request, s=scores: s), stateless, key=KEY)
    one = stateless._replace(forget={name: stateless.forget[name][:1] for name in ("x", "y")})
    with pytest.raises(RequestError, match="1 forget rows cannot be split into 2 parts"):
        unlearn(rum(parts=parts), one, key=KEY)
    with pytest.raises(RequestError, match="rum needs 'validation'"):
        unlearn(rum(parts=(None, scrub_r())), stateless, key=KEY)


def test_a_part_that_needs_whole_classes_is_asked_before_any_work(whole_class):
    """Half of class 3 waits while the other half goes: no whole class, unless the waiting rows are left out."""
    parts = (boundary_expand(epochs=1, batch_size=8), boundary_expand(epochs=1, batch_size=8))
    with pytest.raises(RequestError, match="part 0 of rum, boundary_expand, needs 'classes'"):
        unlearn(rum(parts=parts), whole_class, key=KEY)
    outcome = unlearn(rum(parts=parts, keep_waiting=False), whole_class, key=KEY)
    assert jnp.all(jnp.isfinite(outcome.params["head"]["kernel"]))
