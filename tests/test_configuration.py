import pytest
from ml_collections import ConfigDict, config_dict

from clujax import configuration
from clujax.errors import ConfigError


@pytest.fixture
def config():
    return ConfigDict(
        {
            "system": "unlearning",
            "seed": 0,
            "debug": False,
            "data": {"name": "mnist", "path": config_dict.placeholder(str), "rows": config_dict.placeholder(int)},
            "train": {"rate": 0.1, "widths": (256, 128), "methods": ("finetune", "sfron")},
        }
    ).lock()


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("--config.seed=3", "seed", 3),
        ("--seed=1e3", "seed", 1000),
        ("--debug=yes", "debug", True),
        ("--data.path=some/file=1.npz", "data.path", "some/file=1.npz"),
        ("--data.rows=100", "data.rows", 100),
        ("--data.name=none", "data.name", "none"),
        ("--train.rate=2", "train.rate", 2.0),
        ("--train.widths=64", "train.widths", (64,)),
        ("--train.widths=(64, 32)", "train.widths", (64, 32)),
        ("--train.methods=salun,sfron", "train.methods", ("salun", "sfron")),
    ],
)
def test_override_reads_the_type_of_the_field(config, assignment, key, value):
    before = configuration.flatten(config)
    changed = configuration.override(config, [assignment])
    assert configuration.flatten(changed) == before | {key: value}
    assert type(configuration.flatten(changed)[key]) is type(value)
    assert configuration.flatten(config) == before
    assert changed.is_locked


def test_a_placeholder_can_be_emptied_again(config):
    filled = configuration.override(config, ["--data.rows=5"])
    assert configuration.override(filled, ["--data.rows=none"]).data.rows is None


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("--train.rat=1", ["'train.rat'", "did you mean 'train.rate'?", "train.widths"]),
        ("--rate=1", ["did you mean 'train.rate'?", "train.*"]),
        ("--zzz=1", ["unknown config key 'zzz'", "data.*", "seed"]),
        ("--seed.deep=1", ["'seed' is a single value (0)"]),
        ("--train=1", ["is a section", "train.rate"]),
        ("--seed=1.5", ["'seed' takes a whole number", "now 0", "'1.5'"]),
        ("--seed=none", ["'seed' takes a whole number", "'none'"]),
        ("--train.rate=fast", ["takes a number", "'fast'"]),
        ("--debug=maybe", ["true or false", "'maybe'"]),
        ("--data.rows=many", ["a whole number or none", "'many'"]),
        ("--train.widths=wide", ["a tuple", "'wide'"]),
        ("--seed", ["--seed=VALUE"]),
    ],
)
def test_a_bad_override_says_what_would_do(config, assignment, words):
    with pytest.raises(ConfigError) as caught:
        configuration.override(config, [assignment])
    assert [word for word in words if word not in str(caught.value)] == []


def test_digest_follows_values_not_order():
    digests = {configuration.digest(ConfigDict({"a": 1, "b": {"c": (1, 2)}}))}
    digests.add(configuration.digest(ConfigDict({"b": {"c": (1, 2)}, "a": 1})))
    assert len(digests) == 1
    digests.add(configuration.digest(ConfigDict({"b": {"c": (1, 3)}, "a": 1})))
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "no function get_config"),
        ("def get_config():\n    return {}", "returned dict"),
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, words):
    (tmp_path / "demo.py").write_text(content)
    with pytest.raises(ConfigError, match=words):
        configuration.load(tmp_path / "demo.py")


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "demo.py").write_text("")
    with pytest.raises(ConfigError, match=r"Did you mean .*demo\.py"):
        configuration.load(tmp_path / "dmeo.py")
