"""An ensemble is M single trainings: against `retrain` itself, against members alone, on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.errors import RequestError
from clujax.models import cnn, mlp
from clujax.training import Checkpoints, NonFiniteError, Writer, make_mesh
from clujax.unlearning import Request, ensembles, predict, retrain, subset_masks, unlearn
from clujax.unlearning.ensembles import (
    ensemble_logits,
    member,
    repeated,
    train_ensemble,
)

N, C = 60, 4
NET = mlp(C, (8,))
SMALL = {"epochs": 2, "batch_size": 16}


def split(members, seed=3):
    return jax.random.split(jax.random.key(seed), members)


def everything(members):
    return np.ones((members, N), bool)


def assert_close(ours, theirs, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol), ours, theirs)


def distance(a, b):
    return max(float(jnp.abs(p - q).max()) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("network", [NET, cnn(C, (4,))], ids=["mlp", "batch_norm"])
def test_members_are_what_retrain_gives_with_their_keys(rows, network):
    flip = lambda key, x: jnp.where(jax.random.bernoulli(key, shape=(len(x), 1, 1, 1)), x[:, :, ::-1], x)
    recipe = SMALL | {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 1e-2}
    keys = split(2)
    ours = train_ensemble(network, rows, everything(2), keys, augment=flip, **recipe)
    request = Request(network, *network.init(keys[0], rows["x"][:1]), rows, rows, C, augment=flip)
    for m in range(2):
        alone = unlearn(retrain(**recipe), request, key=keys[m])
        assert_close(member(ours, m), (alone.params, alone.stats))


def test_unequal_members_equal_each_alone(rows):
    """12, 33 and 60 rows: 2, 6 and 8 steps; the short ones rest until the long one is done."""
    keep = np.arange(N) < np.array([[12], [33], [60]])
    keys = split(3)
    together = train_ensemble(NET, rows, keep, keys, **SMALL)
    for m in range(3):
        alone = train_ensemble(NET, rows, keep[m : m + 1], keys[m : m + 1], **SMALL)
        assert_close(member(together, m), member(alone, 0))
    assert distance(member(together, 0), member(together, 1)) > 1e-2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 30))
def test_each_epoch_of_a_member_visits_its_rows_once(seed, batch_size):
    rng = np.random.default_rng(seed)
    keep = rng.random((3, 13)) < 0.5
    keep[:, rng.integers(13)] = True
    indices = ensembles._member_batches(split(3, seed), keep, batch_size)
    stream = np.concatenate([indices(s) for s in range(-(-26 // batch_size))], 1)
    for m in range(3):
        kept = np.flatnonzero(keep[m])
        for e in range(2):
            assert sorted(stream[m, e * kept.size : (e + 1) * kept.size]) == kept.tolist()


def test_batches_are_pure_in_the_step():
    keep = np.arange(N) < np.array([[12], [60]])
    make = lambda: ensembles._member_batches(split(2), keep, 16)
    forward = make()
    expected = [forward(s) for s in range(9)]
    backward = make()
    for s in reversed(range(9)):
        np.testing.assert_array_equal(backward(s), expected[s])


def test_rows_left_out_have_no_influence(rows):
    """Not through BatchNorm, nor through inputs that would turn everything to NaN."""
    network = cnn(C, (4,))
    keep = np.arange(N) < np.array([[40], [25]])
    poisoned = {"x": np.where(np.arange(N)[:, None, None, None] < 40, rows["x"], np.nan), "y": rows["y"]}
    clean = train_ensemble(network, rows, keep, split(2), **SMALL)
    assert_close(clean[:2], train_ensemble(network, poisoned, keep, split(2), **SMALL)[:2], atol=0)


def test_members_with_one_key_meet_rows_in_one_order():
    keep = np.ones((2, 9), bool)
    keep[1, 4] = False
    keys = jnp.stack([jax.random.key(0)] * 2)
    whole, less = (ensembles._member_batches(keys[:1], kept[None], kept.sum())(3)[0] for kept in keep)
    assert whole[whole != 4].tolist() == less.tolist()


def test_eight_devices_give_the_numbers_of_one(rows):
    keep = subset_masks(jax.random.key(0), 8, N)
    mesh = make_mesh((("ensemble", -1),))
    one = train_ensemble(NET, rows, keep, split(8), **SMALL)
    eight = train_ensemble(NET, rows, keep, split(8), mesh=mesh, **SMALL)
    assert_close(one.params, eight.params, atol=1e-6)
    assert all(leaf.sharding.spec[0] == "ensemble" for leaf in jax.tree.leaves(eight.params))
    np.testing.assert_allclose(ensemble_logits(NET, one, rows["x"]), ensemble_logits(NET, eight, rows["x"]), atol=1e-5)


def test_the_step_is_compiled_once(rows):
    """Over epochs, over calls with other masks, keys, rates and lengths."""
    network = mlp(C, (5,))
    train_ensemble(network, rows, everything(2), split(2), **SMALL)
    keep = np.arange(N) < np.array([[12], [60]])
    train_ensemble(network, rows, keep, split(2, 9), epochs=5, batch_size=16, learning_rate=[0.1, 0.01])
    program, _ = ensembles._program(network, None, None, 0.9, 5e-4, True, None)
    assert program._cache_size() == 1


def test_steps_on_a_mesh_exchange_only_the_told_numbers(rows):
    """Members do not wait for one another: no parameter-sized collective in the program."""
    mesh = make_mesh((("ensemble", -1),))
    program, tx = ensembles._program(NET, None, None, 0.9, 5e-4, True, mesh)
    params, stats = jax.vmap(NET.init, (0, None))(split(8), rows["x"][:1])
    state = ensembles._State(params, stats, jax.vmap(tx.init)(params), jnp.zeros(8, int), split(8), jnp.ones(8, bool))
    place = lambda tree, spec: jax.device_put(tree, jax.NamedSharding(mesh, spec))
    member_axis, whole = jax.P("ensemble"), jax.P()
    own = place({"rate": jnp.ones(8), "total": jnp.ones(8, int)}, member_axis)
    index = place(jnp.zeros((8, 16), int), member_axis)
    text = program.lower(place(state, member_axis), index, own, place(rows, whole)).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    for line in text.splitlines():
        if " all-reduce(" in line:
            assert "[]" in line.split(" all-reduce(")[0], line


def test_own_labels_and_weights(rows):
    """Labels `[M, N]` and a row of weight 0 do what leaving out or relabelling by hand does to a full batch."""
    flipped = (rows["y"] + 1) % C
    whole = {"epochs": 3, "batch_size": N}
    ours = train_ensemble(NET, rows, everything(2), split(2), labels=np.stack([rows["y"], flipped]), **whole)
    second = train_ensemble(NET, {"x": rows["x"], "y": flipped}, everything(2), split(2), **whole)
    assert_close(member(ours, 1), member(second, 1), atol=1e-6)

    first = np.arange(N) < 20
    weighted = train_ensemble(NET, rows, everything(2), split(2), weights=2.5 * first, **whole)
    chosen = train_ensemble(NET, rows, np.stack([first] * 2), split(2), epochs=3, batch_size=20)
    assert_close(weighted.params, chosen.params)


def test_no_weight_at_all_leaves_only_decay(rows):
    decay = {"epochs": 1, "batch_size": N, "momentum": 0.0, "learning_rate": 0.5, "weight_decay": 0.1}
    start = train_ensemble(NET, rows, everything(1), split(1), **SMALL)
    after = train_ensemble(NET, rows, everything(1), split(1), start=start, weights=np.zeros(N), **decay)
    assert_close(after.params, jax.tree.map(lambda p: 0.95 * p, start.params), atol=1e-6)


def test_negative_weights_climb_and_start_stays_usable(rows):
    start = train_ensemble(NET, rows, everything(2), split(2), epochs=5, batch_size=16)
    before = jax.tree.map(np.asarray, start.params)
    gentle = {"epochs": 1, "batch_size": N, "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    down = train_ensemble(NET, rows, everything(2), split(2), start=start, **gentle)
    up = train_ensemble(NET, rows, everything(2), split(2), start=start, weights=-np.ones((2, N)), **gentle)
    assert_close(start.params, before, atol=0)
    # One step of plain descent: the two moves are opposite.
    assert_close(jax.tree.map(lambda d, u: d + u, down.params, up.params), jax.tree.map(lambda p: 2 * p, before), 1e-6)
    assert distance(down.params, before) > 1e-4


def test_repeated_starts_everyone_from_one_network(rows):
    params, stats = NET.init(jax.random.key(5), rows["x"][:1])
    start = repeated(params, stats, 3)
    after = train_ensemble(NET, rows, everything(3), split(3), start=start, epochs=0, batch_size=16)
    for m in range(3):
        assert_close(member(after, m), (params, stats), atol=0)


def test_any_optimizer(rows):
    ours = train_ensemble(NET, rows, everything(2), split(2), tx=optax.sgd(0.05), **SMALL)
    theirs = train_ensemble(
        NET, rows, everything(2), split(2), tx=optax.chain(optax.identity(), optax.sgd(0.05)), **SMALL
    )
    adam = train_ensemble(NET, rows, everything(2), split(2), tx=optax.adam(0.05), **SMALL)
    assert_close(ours.params, theirs.params, atol=0)
    assert distance(ours.params, adam.params) > 1e-3


def test_eval_mode_leaves_batch_norm_averages(rows):
    network = cnn(C, (4,))
    start = train_ensemble(network, rows, everything(2), split(2), **SMALL)
    after = train_ensemble(network, rows, everything(2), split(2), start=start, train=False, **SMALL)
    assert_close(after.stats, start.stats, atol=0)
    assert distance(after.params, start.params) > 1e-3


def test_a_diverging_member_is_named_or_stopped_alone(rows):
    rates = [0.05, 1e12, 0.02]
    recipe = SMALL | {"learning_rate": rates}
    with pytest.raises(NonFiniteError, match=r"1 of 3 members diverged \(first: \[1\]\)"):
        train_ensemble(NET, rows, everything(3), split(3), **recipe)
    kept = train_ensemble(NET, rows, everything(3), split(3), tolerate=True, **recipe)
    assert kept.diverged.tolist() == [False, True, False]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.params))
    fresh = train_ensemble(NET, rows, everything(3), split(3), **SMALL)._replace(diverged=kept.diverged)
    continued = train_ensemble(NET, rows, everything(3), split(3), start=fresh, progress=True, **SMALL)
    assert continued.diverged.tolist() == kept.diverged.tolist()
    for m in (0, 2):
        alone = train_ensemble(NET, rows, everything(1), split(3)[m : m + 1], **SMALL, learning_rate=rates[m])
        assert_close(member(kept, m), member(alone, 0))
    with pytest.raises(NonFiniteError, match="2 of 2 members"):
        train_ensemble(NET, rows, everything(2), split(2), **SMALL, learning_rate=1e12, tolerate=True)


def test_a_stopped_run_resumes_to_the_same_bits(rows, tmp_path):
    options = {"checkpoint_every": 3, **SMALL}
    whole = train_ensemble(NET, rows, everything(2), split(2), **SMALL)

    class Stop(Exception):
        pass

    class Stopper(Writer):
        def write(self, record):
            if record["step"] == 5:
                raise Stop

    stopper = Stopper(tmp_path / "metrics")
    with Checkpoints(tmp_path / "saved") as checkpoints, pytest.raises(Stop):
        train_ensemble(
            NET, rows, everything(2), split(2), checkpoints=checkpoints, writer=stopper, log_every=1, **options
        )
    with Checkpoints(tmp_path / "saved") as checkpoints:
        again = train_ensemble(NET, rows, everything(2), split(2), checkpoints=checkpoints, **options)
    assert again.records[0]["step"] > 0
    assert_close(again.params, whole.params, atol=0)


def test_logits_are_each_members_own(rows):
    network = cnn(C, (4,))
    ensemble = train_ensemble(network, rows, everything(2), split(2), **SMALL)
    logits = ensemble_logits(network, ensemble, rows["x"], batch_size=25)
    assert logits.shape == (2, N, C)
    for m in range(2):
        np.testing.assert_allclose(logits[m], predict(network, *member(ensemble, m), rows["x"]), atol=1e-5)


BAD = [
    ({"keep": np.ones((0, N), bool)}, RequestError, "M ≥ 1"),
    ({"keep": np.ones(N, bool)}, RequestError, "keep has shape"),
    ({"keep": np.ones((2, N - 1), bool)}, RequestError, "keep has shape"),
    ({"keep": np.ones((2, N))}, RequestError, "dtype float64; expected bool"),
    ({"keep": np.arange(N) < np.array([[5], [0]])}, RequestError, r"1 members keep no row \(first: \[1\]\)"),
    ({"labels": np.zeros(N)}, RequestError, "expected integer"),
    ({"labels": np.zeros((3, N), int)}, RequestError, "labels have shape"),
    ({"labels": np.full(N, C)}, RequestError, r"the network has classes \[0, 4\)"),
    ({"labels": np.full(N, -1)}, RequestError, "labels span"),
    ({"weights": np.ones(3)}, RequestError, "weights have shape"),
    ({"weights": np.full(N, np.nan)}, RequestError, "NaN or Inf"),
    ({"keys": split(3)}, RequestError, r"keys have shape \(3,\); expected 2 typed keys"),
    ({"keys": jax.random.key(0)}, RequestError, "expected 2 typed keys"),
    ({"epochs": -1}, ValueError, "epochs is -1"),
    ({"epochs": float("inf")}, ValueError, "finite"),
    ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ({"learning_rate": [0.1, 0.1, 0.1]}, ValueError, "one for each of 2 members"),
    ({"learning_rate": -0.1}, ValueError, "learning_rate is -0.1"),
    ({"mesh": make_mesh((("data", -1),))}, ValueError, "expected 'ensemble'"),
    ({"mesh": make_mesh((("ensemble", -1),))}, ValueError, "2 members do not divide over the 8 devices"),
    ({"start": repeated({"w": np.ones(3)}, {}, 5)}, RequestError, "expected 2 members"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_refused_before_any_work(rows, change, error, message):
    arguments = {"keep": everything(2), "keys": split(2), **SMALL} | change
    with pytest.raises(error, match=message):
        train_ensemble(NET, rows, arguments.pop("keep"), arguments.pop("keys"), **arguments)


def test_rows_need_inputs_and_labels(rows):
    with pytest.raises(RequestError, match="missing: y"):
        train_ensemble(NET, {"x": rows["x"]}, everything(2), split(2), **SMALL)
