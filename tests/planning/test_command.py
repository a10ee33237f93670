import json

import pytest

from clujax import cli

CONFIG = '''"""Forget digits with a small network."""
import runpy


def get_config():
    config = runpy.run_path("configs/unlearning/demo.py")["get_config"]()
    config.model.widths = (64, 32)
    config.mesh = (("data", -1), ("fsdp", 2))
    config.planned = ("sfron",)
    return config
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(cli._PACKAGE.parent)
    monkeypatch.setenv("COLUMNS", "220")
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


def test_a_plan_says_what_each_step_needs_and_writes_it(config, tmp_path, capsys):
    out = tmp_path / "plans" / "first"
    assert cli.main(["plan", str(config), "--topology", "cpu:8", "--compare", "cpu:4", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    for word in (
        "pretrain",
        "sfron/forget",
        "sfron/remain",
        "cpu:8 data 4 × fsdp 2",
        "cpu:4 data 2 × fsdp 2",
        "all-reduce",
    ):
        assert word in told
    written = json.loads((out / "plan.json").read_text(), parse_constant=pytest.fail)
    assert [each["name"] for each in written["steps"]] == 2 * ["pretrain", "sfron/forget", "sfron/remain"]
    eight, four = written["steps"][0], written["steps"][3]
    assert four["flops"] == 2 * eight["flops"]
    assert eight["memory"]["total"] == sum(v for k, v in eight["memory"].items() if k not in ("total", "over", "limit"))
    assert written["configs"][str(config)]["model"]["widths"] == [64, 32]
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["plan.json", "plan.png"]


def test_two_configs_are_told_apart_by_their_files(config, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(CONFIG.replace("(64, 32)", "(32, 32)"))
    assert cli.main(["plan", str(config), "--topology", "cpu:2", "--compare", str(other), "--planned=finetune"]) == 0
    told = capsys.readouterr().out
    assert "small: pretrain" in told
    assert "other: finetune" in told
    assert "sfron" not in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topology", "v5e:5x5"], "unknown topology 'v5e:5x5': did you mean"),
        (["--topology", "cpu:8", "--compare", "v5f:4x4"], "unknown topology 'v5f:4x4'"),
        (["--topology", "cpu:8", "--mesh=(('data', 3),)"], "needs 3 devices and there are 8"),
        (["--topology", "cpu:8", "--mesh=(('data', 4), ('data', 2))"], "twice"),
        (["--topology", "cpu:8", "--pretrain.batch_size=100"], "multiple of 8"),
        (["--topology", "cpu:8", "--system=regression"], "'regression' in"),
        (["--topology", "cpu:8", "--pretrain.batchsize=64"], "did you mean 'pretrain.batch_size'"),
        (["--topology", "cpu:8", "--compare", "no/such.py"], "there is no file"),
    ],
)
def test_bad_input_is_answered_with_one_message(config, words, says, capsys):
    assert cli.main(["plan", str(config), *words]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert not told.out


def test_systems_that_can_be_planned_are_named(config, capsys):
    assert cli.main(["plan", str(config), "--topology", "cpu:8", "--system=nothing"]) == 2
    assert "those of: unlearning" in capsys.readouterr().err


def test_out_must_not_be_a_file(config, capsys):
    assert cli.main(["plan", str(config), "--topology", "cpu:8", "--out", str(config)]) == 2
    assert "name a directory" in capsys.readouterr().err
