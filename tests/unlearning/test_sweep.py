"""The sweep finds the candidate nearest to retraining on validation rows, and survives one that diverges."""

import inspect
import math

import jax
import numpy as np
import pytest

from clujax.adaptation.method import Method
from clujax.adaptation.plans import edited
from clujax.errors import RequestError
from clujax.training import NonFiniteError
from clujax.unlearning import evaluate, finetune, gaps, predictions, retrain, unlearn, unsir
from clujax.unlearning.sweep import sweep, validation_gap, validation_values

SHORT = {"epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def held(stateless):
    """The shared request with rows that the network never saw, of the same law."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, 4, 90).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    x = (centres[y] + 1.2 * rng.normal(size=(90, 4, 4, 1))).astype(np.float32)
    return stateless._replace(validation={"x": x, "y": y})


@pytest.fixture(scope="module")
def reference(held):
    outcome = unlearn(retrain(epochs=30, batch_size=32), held, key=jax.random.key(5))
    return outcome.params, outcome.stats


def copy_of(params):
    """A candidate that answers with given parameters."""
    prepare = lambda request, key: edited(request, params)
    return Method("copy", prepare, {})


def test_the_retrained_network_itself_wins(held, reference):
    candidates = {
        "nothing": finetune(learning_rate=0.0, **SHORT),
        "exact": copy_of(reference[0]),
        "tune": finetune(learning_rate=0.05, **SHORT),
    }
    found = sweep(candidates, held, reference, key=jax.random.key(0))
    assert found.best == "exact"
    assert [trial.name for trial in found.table] == list(candidates)
    gap = {trial.name: trial.gap for trial in found.table}
    assert gap["exact"] == 0
    assert gap["nothing"] > 0
    jax.tree.map(np.testing.assert_array_equal, found.outcome.params, reference[0])


def test_gap_is_the_evaluation_tables_with_validation_rows_as_unseen(held, reference):
    rows = {"forget": held.forget, "remain": held.remain, "unseen": held.validation}
    cache, expected = (predictions(held.classifier, *side, rows) for side in ((held.params, held.stats), reference))
    table = gaps(evaluate(cache, expected), evaluate(expected))
    ours, _ = validation_values(held, held.params, held.stats)
    theirs, _ = validation_values(held, *reference)
    assert validation_gap(ours, theirs) == pytest.approx(table["AvgD"])
    assert "TA" not in ours
    assert ours["VA"] == evaluate(cache)["TA"]


def test_validation_rows_of_a_forgotten_class_stand_apart(held, reference):
    own = lambda rows, chosen: {name: column[chosen] for name, column in rows.items()}
    rows = {name: np.concatenate([held.forget[name], held.remain[name]]) for name in ("x", "y")}
    request = held._replace(forget=own(rows, rows["y"] == 2), remain=own(rows, rows["y"] != 2))
    values, cache = validation_values(request, held.params, held.stats)
    assert (cache["unseen_forget"][1] == 2).all()
    assert (cache["unseen"][1] != 2).all()
    assert "FA_val" in values
    only = request._replace(validation=own(held.validation, held.validation["y"] == 2))
    with pytest.raises(RequestError, match="no row of a class that remains"):
        sweep({"tune": finetune(**SHORT)}, only, reference, key=jax.random.key(0))


def test_a_diverging_candidate_is_recorded_and_passed_over(held, reference):
    nans = jax.tree.map(lambda leaf: leaf * np.nan, held.params)
    candidates = {
        "wild": finetune(learning_rate=1e30, **SHORT),
        "broken edit": copy_of(nans),
        "tune": finetune(learning_rate=0.01, **SHORT),
    }
    found = sweep(candidates, held, reference, key=jax.random.key(0))
    assert found.best == "tune"
    assert [math.isinf(trial.gap) for trial in found.table] == [True, True, False]
    assert all(trial.reason for trial in found.table[:2])
    assert found.table[2].reason is None
    del candidates["tune"]
    with pytest.raises(NonFiniteError, match="every candidate diverged; wild"):
        sweep(candidates, held, reference, key=jax.random.key(0))


def test_a_candidates_run_does_not_depend_on_the_others(held, reference):
    tune = finetune(learning_rate=0.01, **SHORT)
    alone = sweep({"tune": tune}, held, reference, key=jax.random.key(3)).table[0]
    beside = sweep({"copy": copy_of(held.params), "tune": tune}, held, reference, key=jax.random.key(3)).table[1]
    assert alone.values == beside.values


def test_the_score_decides(held, reference):
    candidates = {"copy": copy_of(held.params), "exact": copy_of(reference[0])}
    farthest = sweep(candidates, held, reference, key=jax.random.key(0), score=lambda v, r: -validation_gap(v, r))
    assert farthest.best == "copy"
    assert farthest.reference["KL"] == 0


def test_test_rows_have_no_way_in():
    assert not [name for name in inspect.signature(sweep).parameters if "test" in name or "unseen" in name]


def test_what_a_sweep_needs(stateless, held, reference):
    run = lambda request, candidates: sweep(candidates, request, reference, key=jax.random.key(0))
    tune = {"tune": finetune(**SHORT)}
    with pytest.raises(RequestError, match=r"sweep \(tune\) needs 'validation'"):
        run(stateless, tune)
    with pytest.raises(RequestError, match="needs 'remain'"):
        run(held._replace(remain=None), tune)
    with pytest.raises(RequestError, match=r"sweep \(u\) needs 'classes'"):
        run(held, {"u": unsir()})
    with pytest.raises(RequestError, match="candidates is empty"):
        run(held, {})
