"""The steps of a run as shapes, and what is refused before a run does anything long."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clujax import configuration, data
from clujax.adaptation.settings import build_classifier, build_mesh, build_rules, checkpoint_options
from clujax.errors import ConfigError
from clujax.training import lower, make_mesh, shardings
from clujax.unlearning import experiment
from clujax.unlearning.outline import check_layout, outlines

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "unlearning" / "tiny.py")
ROWS = {"x": np.zeros((400, 8, 8), np.uint8), "y": np.zeros(400, np.int32)}


def load(path=TINY, **changes):
    config = configuration.load(str(path))
    with config.unlocked():
        for name, value in changes.items():
            section, _, key = name.rpartition("__")
            setattr(config[section] if section else config, key, value)
    return config


def test_outlines_are_the_steps_of_the_run_with_its_batches_and_counts():
    config = load(planned=("sfron", "finetune"))
    found = {each.name: each for each in outlines(config, None, ROWS, 10)}
    assert list(found) == ["pretrain", "sfron/forget", "sfron/remain", "finetune"]
    recipe, sfron = config.pretrain, config.methods.sfron
    assert found["pretrain"].rows == recipe.batch_size
    assert found["pretrain"].calls == recipe.epochs * -(-400 // recipe.batch_size)
    assert found["sfron/remain"].calls == sfron.steps
    assert found["sfron/forget"].calls == -(-sfron.steps // sfron.repair)
    assert found["sfron/forget"].batch["x"].shape[1:] == (8, 8)
    masks = [leaf for leaf in jax.tree.leaves(found["sfron/forget"].state.opt_state) if leaf.dtype == bool]
    assert sum(leaf.size for leaf in masks) == sum(
        leaf.size for leaf in jax.tree.leaves(found["pretrain"].state.params)
    )


def test_a_named_set_need_not_be_here_and_another_must_say_how_it_looks():
    config = load(data__name="imagenet", data__train_rows=None, planned=("sfron",))
    assert outlines(config, None)[0].batch["x"].shape[1:] == data.KNOWN["imagenet"].look.shape
    with pytest.raises(ConfigError, match=r"'mine', whose look is not known; set data\.shape, data\.classes"):
        outlines(load(data__name="mine"), None)


def test_a_method_that_computes_while_it_prepares_is_named():
    with pytest.raises(ConfigError, match="exploding computes with the network's values while it prepares"):
        outlines(load(planned=("exploding",)), None, ROWS, 10)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pretrain__batch_size": 36}, "pretrain.batch_size is 36, which 8 devices cannot share evenly"),
        ({"pretrain__batch_size": 40, "accumulate": 2}, r"each in 2 parts \(accumulate\).*a multiple of 16"),
        ({"rules": (("atention", "fsdp"),)}, "'atention' fits no parameter; the paths are: .*kernel"),
        ({"rules": ((".*", "tensor", "model", 0),)}, "names the mesh axis 'model'"),
        ({"rules": (("(", "fsdp"),)}, "cannot be read"),
        ({"rules": ((".*", "sharded"),)}, "is 'sharded'; expected one of fsdp, partition, replicate, tensor"),
        ({"rules": (".*",)}, r"expected \(pattern, strategy, arguments"),
        ({"checkpoints": {"kept": 3}}, "'kept'; expected one of grace_seconds, keep, keep_every"),
        ({"mesh": (("data", 3),)}, "needs 3 devices and there are 8"),
    ],
)
def test_what_does_not_fit_the_devices_is_refused_before_the_directory_is_claimed(changes, says, tmp_path):
    config = load(**({"mesh": (("data", -1),)} | changes))
    with pytest.raises(ConfigError, match=says):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_fits_is_let_through():
    config = load(mesh=(("data", -1),), accumulate=2, rules=(("kernel", "fsdp", "data", 1), (".*", "replicate")))
    check_layout(config, build_mesh(config), ROWS, 10)
    assert build_mesh(load()) is None
    assert checkpoint_options(load(checkpoints={"keep": 3, "grace_seconds": 5.0})) == (
        {"keep": 3},
        {"grace_seconds": 5.0},
    )


def test_a_config_that_accumulates_has_the_same_logits():
    x = np.random.default_rng(0).integers(0, 16, (12, 8, 8)).astype(np.uint8)
    whole, parts = (build_classifier(load(accumulate=each), {"x": x}, 10) for each in (1, 4))
    params, stats = whole.init(jax.random.key(0), x)
    np.testing.assert_allclose(parts.apply(params, stats, x)[0], whole.apply(params, stats, x)[0], rtol=1e-5, atol=1e-6)
    text = str(jax.make_jaxpr(lambda p: parts.apply(p, stats, x, train=True)[0])(params))
    assert re.search(r"scan\[", text)
    assert "f32[3," in text  # a part holds three rows


@pytest.mark.parametrize("name", ["resnet18_cifar10", "resnet50_imagenet", "vit_b16_imagenet"])
def test_configs_at_pod_size_lower_for_a_small_mesh_when_they_are_made_small(name):
    """Every rule and activation of the real config, on a network that compiles in seconds."""
    config = load(ROOT / "configs" / "pods" / f"{name}.py")
    with config.unlocked():
        config.data.shape, config.data.classes, config.data.train_rows = (32, 32, 3), 10, 256
        for recipe in (config.pretrain, config.methods.sfron):
            recipe.batch_size = 16
        if name.startswith("vit"):
            config.mesh = (("data", -1), ("fsdp", 2), ("model", 2))
            config.model.update({"image_size": 32, "width": 16, "depth": 1, "num_heads": 2})
        else:
            config.model.width = 4
    mesh = make_mesh(config.mesh)
    for each in outlines(config, mesh):
        text = lower(each).as_text()
        assert text.count("sharding_constraint") > len(jax.tree.leaves(each.state))  # activations beside the state
        if name.startswith("vit"):
            assert re.search(r'sharding_constraint .*\{"model"\}\]> : tensor<16x4x64xbf16>', text)  # hidden units
            place = shardings(each.state, mesh, build_rules(config)).params["blocks_0"]["Dense_0"]["kernel"]
            assert place.shard_shape((16, 64)) == (8, 32)
        assert jnp.dtype("bfloat16").name[:2] + "16" in text
