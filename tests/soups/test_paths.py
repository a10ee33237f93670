"""The less travelled ways to a soup: disk, adapters in closed form, Gauss–Newton, resuming, many devices, statistics, refusals."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from clujax import lora, soups, training
from clujax.errors import CheckpointError
from clujax.soups import MemoryPool, statistics

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (24, 3))
LABELS = (X @ jnp.array([1.0, -2.0, 0.5]) > 0).astype(jnp.int32)
BATCHES = [{"x": X[i : i + 8], "y": LABELS[i : i + 8]} for i in (0, 8, 16)]


def models(count=4, dtype=jnp.float32):
    draw = np.random.default_rng(0)
    start = {"w": draw.normal(size=(3, 2)), "b": np.zeros(2)}
    return [
        jax.tree.map(lambda x: jnp.asarray(x + 0.5 * draw.normal(size=x.shape), dtype), start) for _ in range(count)
    ]


def logits(params, batch, key=None):
    return batch["x"] @ params["w"].astype(jnp.float32) + params["b"].astype(jnp.float32)


OBJECTIVE = soups.cross_entropy(logits)


def value(params):
    return float(np.mean([OBJECTIVE(params, batch)[0] for batch in BATCHES]))


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def steps(**options):
    return soups.Descent(**({"optimizer": optax.adam, "learning_rate": 0.05, "epochs": 3} | options))


def learn(pool, **options):
    settings = {"key": KEY, "inner": steps(), "block_size": 2}
    return soups.mehl(pool, OBJECTIVE, BATCHES, **(settings | options))


def test_models_on_disk_are_those_in_memory(tmp_path):
    made = models()
    folders = []
    for k, params in enumerate(made):
        if k % 2:
            with training.Checkpoints(tmp_path / f"run{k}" / "checkpoints") as kept:
                kept.save(7, {"params": params, "step": jnp.int32(7)})
            folders.append(tmp_path / f"run{k}")
        else:
            with ocp.StandardCheckpointer() as writer:
                writer.save(tmp_path / f"plain{k}", {"params": params, "other": jnp.ones(5)})
            folders.append(tmp_path / f"plain{k}")
    pool = soups.OrbaxPool(folders)
    for k, params in enumerate(made):
        close(pool.load(k), params, 0)
    assert set(pool.load(1, ["w"])) == {"w"}
    close(learn(pool).params, learn(MemoryPool(made)).params, 1e-6)
    with pytest.raises(CheckpointError):
        soups.OrbaxPool([tmp_path / "nowhere"])


def test_learned_soup_stays_in_the_hull_and_beats_the_mean():
    pool = MemoryPool(models())
    for simplex in (soups.softmax, soups.projected):
        found = soups.learned(pool, OBJECTIVE, BATCHES, key=KEY, epochs=10, simplex=simplex)
        assert found.weights.min() >= 0
        np.testing.assert_allclose(found.weights.sum(0), 1.0, atol=1e-5)
        assert value(found.params) < value(soups.uniform(pool).params)
        assert found.history[0]["beta"] != 1.0
        close(found.params, weighted(found), 1e-5)


def weighted(found):
    """Σ_k w_k θ_k, leaf by leaf in the order of the groups (b, w)."""
    made = models()
    return {name: sum(found.weights[k, i] * made[k][name] for k in range(4)) for i, name in enumerate(("b", "w"))}


def test_gauss_newton_never_rises_and_does_at_least_as_well_as_adam():
    pool = MemoryPool(models())
    newton = learn(pool, inner=soups.GaussNewton(steps=6), block_size=4)
    losses = newton.history[0]["losses"]
    assert np.all(np.diff(losses) < 0)
    assert value(newton.params) <= value(learn(pool, block_size=4).params) + 1e-3
    np.testing.assert_allclose(newton.weights.sum(0), 1.0, atol=1e-5)


def test_one_newton_step_solves_least_squares():
    """Outputs linear in the coefficients and a squared loss: the closed form on the affine hull."""
    target = jnp.stack([X @ jnp.array([1.0, 2.0, 3.0]), X.sum(1)], 1)
    squares = soups.Objective(logits, lambda out, batch: 0.5 * jnp.mean(jnp.sum((out - batch["t"]) ** 2, -1)))
    batches = [{"x": X, "t": target}]
    made = models(3)
    found = soups.mehl(
        MemoryPool(made), squares, batches, key=KEY, inner=soups.GaussNewton(steps=1, damping=1e-8),
        groups=soups.groups.whole, normalize=soups.raw,
    )  # fmt: skip
    flat = lambda p: np.asarray(logits(p, batches[0]), np.float64).ravel()
    columns = np.stack([flat(p) for p in made], 1)
    basis = columns[:, 1:] - columns[:, :1]
    best, *_ = np.linalg.lstsq(basis, np.asarray(target, np.float64).ravel() - columns[:, 0], rcond=None)
    np.testing.assert_allclose(found.weights[:, 0], [1 - best.sum(), *best], atol=1e-3)


@pytest.mark.parametrize("reference", [soups.running, soups.pool_mean])
def test_a_stopped_soup_goes_on_to_the_same_bits(tmp_path, reference):
    pool = MemoryPool(models())
    options = {"reference": reference, "sweeps": 2}
    whole = learn(pool, **options)

    class Stop(Exception):
        pass

    def stop(record):
        if record["block"] == 1:
            raise Stop

    with training.Checkpoints(tmp_path) as kept, pytest.raises(Stop):
        learn(pool, checkpoints=kept, callback=stop, **options)
    with training.Checkpoints(tmp_path) as kept:
        again = learn(pool, checkpoints=kept, **options)
    close(again.params, whole.params, 0)
    np.testing.assert_array_equal(again.weights, whole.weights)
    with training.Checkpoints(tmp_path) as kept, pytest.raises(CheckpointError, match="another soup"):
        learn(pool, checkpoints=kept, reference=reference, sweeps=3)


def test_a_block_over_eight_devices_is_the_block_on_one():
    pool = MemoryPool(models())
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("pool", "data"))
    for size in (2, 3):  # 3 is filled with an empty row
        alone, spread = (learn(pool, block_size=size, mesh=m) for m in (None, mesh))
        close(spread.params, alone.params, 1e-5)


def test_at_most_a_block_and_the_next_are_loaded_and_the_step_compiles_once():
    class Counted(MemoryPool):
        loaded = 0

        def load(self, k, paths=None):
            self.loaded += 1
            return super().load(k, paths)

    seen = []
    for count in (4, 8):
        pool = Counted(models(count))
        traces = []
        loss = lambda params, batch, key, traces=traces: (traces.append(0), OBJECTIVE(params, batch, key))[1]
        found = soups.mehl(pool, loss, BATCHES, key=KEY, inner=steps(), block_size=2)
        assert pool.loaded <= count + 2
        seen.append((len(traces), found.history[-1]["live_bytes"]))
    assert seen[0][0] == seen[1][0]  # as many traces for two blocks as for four


@pytest.mark.parametrize("prefetch", [True, False])
def test_the_next_block_is_read_while_one_is_learned(prefetch):
    read = []

    class Told(MemoryPool):
        def load(self, k, paths=None):
            read.append(k)
            return super().load(k, paths)

    def told(record):
        if record["block"] == 0:
            limit = time.monotonic() + (20 if prefetch else 0.2)
            while len(read) < 4 and time.monotonic() < limit:
                time.sleep(0.01)
            seen.append(len(read))

    seen = []
    learn(Told(models()), prefetch=prefetch, callback=told)
    assert seen == [4 if prefetch else 2]


def test_directions_in_few_bits_and_models_in_few_bits():
    pool = MemoryPool(models())
    close(learn(pool, directions_dtype=jnp.bfloat16).params, learn(pool).params, 0.02)
    low = learn(MemoryPool(models(dtype=jnp.bfloat16)))
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(low.weights.sum(0), 1.0, atol=1e-5)


def test_running_statistics_need_a_policy_and_keep_to_it():
    draw = np.random.default_rng(2)
    made = [
        {"params": params, "batch_stats": {"mean": jnp.asarray(draw.normal(size=2), jnp.float32)}}
        for params in models()
    ]
    loss = lambda tree, batch, key: OBJECTIVE(tree["params"], batch, key)
    run = lambda stats: soups.mehl(MemoryPool(made), loss, BATCHES, key=KEY, inner=steps(), block_size=2, stats=stats)
    with pytest.raises(ValueError, match="policy"):
        run(None)
    means = np.array([model["batch_stats"]["mean"] for model in made])
    np.testing.assert_allclose(run(statistics.average).params["batch_stats"]["mean"], means.mean(0), atol=1e-6)
    np.testing.assert_allclose(run(statistics.from_best(2)).params["batch_stats"]["mean"], means[2], atol=1e-6)
    fresh = statistics.recompute(lambda tree: tree | {"batch_stats": {"mean": jnp.full(2, 7.0)}})
    np.testing.assert_array_equal(run(fresh).params["batch_stats"]["mean"], 7.0)


def test_safeguard_undoes_a_block_and_patience_ends_a_run():
    pool = MemoryPool(models())
    wild = steps(learning_rate=50.0, optimizer=optax.sgd)
    kept = learn(pool, inner=wild, accept=soups.improve, sweeps=2, patience=1)
    assert value(kept.params) <= value(soups.uniform(soups.Subset(pool, kept.history[0]["models"])).params) + 1e-6
    assert not kept.history[0]["accepted"]
    assert kept.history[0]["after"] == kept.history[0]["before"]
    assert len(kept.history) == 1


def test_contribution_of_a_model_is_the_rise_without_it():
    pool = MemoryPool(models())
    found = learn(pool, groups=soups.groups.whole)
    told = soups.leave_one_out(pool, found, OBJECTIVE, BATCHES)
    made, w = models(), found.weights[:, 0]
    for k in range(4):
        rest = [i for i in range(4) if i != k]
        without = jax.tree.map(lambda *x: sum(w[i] * x[i] for i in rest) / (1 - w[k]), *made)
        np.testing.assert_allclose(told.exact[k], value(without) - value(found.params), atol=1e-4)
    assert np.isfinite(told.first_order).all()


def test_adapters_in_closed_form_are_their_dense_models():
    base = {"w": jnp.asarray(np.random.default_rng(3).normal(size=(3, 2)), jnp.float32), "b": jnp.zeros(2)}
    spec = lora.build_spec(base, [lora.LoraRule("^w$", 1, alpha=1.0)])
    each = [
        jax.tree.map(lambda x, i=i: x + 0.5 * jax.random.normal(jax.random.key(i), x.shape),
                     lora.init(jax.random.key(i), base, spec)[0])
        for i in range(3)
    ]  # fmt: skip
    pool = soups.AdapterPool(base, each, {entry.name: entry for entry in spec})
    dense = MemoryPool([lora.merge(base, one, spec) for one in each])
    for normalize in (soups.raw, soups.unit):
        options = {"block_size": None, "normalize": normalize, "order": soups.given([0, 1, 2])}
        closed, formed = learn(pool, **options), learn(dense, **options)
        close(closed.params, formed.params, 1e-4)
        names = closed.groups.names.index("w"), formed.groups.names.index("w")
        np.testing.assert_allclose(closed.weights[:, names[0]], formed.weights[:, names[1]], atol=1e-3)


def test_a_frozen_leaf_keeps_its_bits_and_equal_models_are_that_model():
    made = [model | {"fixed": jnp.array([0.1, 1 / 3])} for model in models()]
    found = learn(MemoryPool(made))
    np.testing.assert_array_equal(found.params["fixed"], made[0]["fixed"])
    same = [models()[0]] * 3
    with pytest.warns(UserWarning, match="the same"):
        found = learn(MemoryPool(same))
    close(found.params, same[0], 1e-6)


def test_a_pool_in_another_order_with_its_order_given_is_the_same_soup():
    made, turned = models(), [2, 0, 3, 1]
    first = learn(MemoryPool(made), order=soups.given([0, 1, 2, 3]))
    second = learn(MemoryPool([made[k] for k in turned]), order=soups.given([turned.index(k) for k in range(4)]))
    close(first.params, second.params, 1e-6)


def test_sizes_make_groups():
    tree = {"a": jnp.zeros(96), "b": jnp.zeros(12), "c": jnp.zeros(60), "d": jnp.zeros(5)}
    count = lambda rule: soups.make_groups(tree, rule).of
    assert count(soups.groups.by_size(50)) == (0, 1, 1, 2)
    assert count(soups.groups.by_size(0)) == count(soups.groups.leaf)
    assert count(soups.groups.by_size(10**6)) == count(soups.groups.whole)


def test_groups_must_be_total():
    tree = {"a": {"w": jnp.zeros(3), "b": jnp.zeros(2)}, "n": jnp.int32(1)}
    some = soups.groups.by(lambda name: "weights" if name.endswith("w") else None)
    with pytest.raises(ValueError, match=r"no group for a/b"):
        soups.make_groups(tree, some)
    with pytest.raises(ValueError, match="gave 1 groups for 2 leaves"):
        soups.make_groups(tree, lambda names, sizes: ["all"])
    with pytest.raises(ValueError, match="nothing can be mixed"):
        soups.make_groups({"n": jnp.int32(1)})
    assert soups.make_groups(tree, soups.groups.module).names == ("a",)


def test_the_warning_about_basins_has_numbers():
    with pytest.warns(soups.BasinWarning, match=r"60.*80"):
        assert not soups.check_basin(60.0, [70.0, 90.0])
    assert soups.check_basin(85.0, [70.0, 90.0])


def test_what_is_refused(tmp_path):
    good = models()
    with pytest.raises(ValueError, match="absent"):
        learn(MemoryPool([*good[:2], {"w": good[2]["w"]}]))
    with pytest.raises(ValueError, match="w is"):
        learn(MemoryPool([*good[:2], good[2] | {"w": jnp.ones((2, 2))}]))
    counters = [model | {"n": jnp.int32(k)} for k, model in enumerate(good)]
    with pytest.raises(ValueError, match="cannot be mixed"):
        soups.uniform(MemoryPool(counters))
    with pytest.raises(ValueError, match=r"batch"):
        soups.mehl(MemoryPool(good), OBJECTIVE, [], key=KEY, inner=steps())
    with pytest.raises(ValueError, match=r"pass|again"):
        soups.mehl(MemoryPool(good), OBJECTIVE, iter(BATCHES), key=KEY, inner=steps())
    with pytest.warns(UserWarning, match="using 4"):
        learn(MemoryPool(good), block_size=9)
    with pytest.raises(ValueError, match="order"):
        learn(MemoryPool(good), order=soups.given([0, 0, 1, 2]))
    wrong = lambda params, batch, key: (jnp.float32(jnp.nan) + 0 * jnp.sum(params["w"]), {})
    with pytest.raises(soups.NonFiniteBlockError, match=r"block 0.*model_"):
        soups.mehl(MemoryPool(good), wrong, BATCHES, key=KEY, inner=steps(), block_size=2)
    recipe = soups.recipe_of(MemoryPool(good), learn(MemoryPool(good)))
    with pytest.raises(ValueError, match=r"4|models"):
        soups.from_recipe(MemoryPool(good[:3]), recipe)
    with pytest.raises(ValueError, match=r"same|test"):
        soups.check_apart(BATCHES, BATCHES)
    with pytest.raises(ValueError, match="Objective"):
        soups.mehl(MemoryPool(good), lambda p, b, k: (0.0, {}), BATCHES, key=KEY, inner=soups.GaussNewton())


def test_coefficients_of_the_papers_form_persist_and_can_be_decayed():
    """Decay pulls α, not its last change, to 0: after many sweeps the soup still lies nearer to the mean of the pool."""

    def decayed(rate):
        tx = lambda schedule: optax.chain(optax.add_decayed_weights(rate), optax.sgd(schedule))
        inner = steps(optimizer=tx, learning_rate=0.3, epochs=4)
        found = learn(MemoryPool(models()), inner=inner, reference=soups.pool_mean, normalize=soups.raw, sweeps=15)
        return np.linalg.norm(found.weights - 0.25)

    assert decayed(1.0) < 0.5 * decayed(0.0)
