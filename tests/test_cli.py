import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import pytest

from clujax import cli, errors

_ROOT = pathlib.Path(cli.__file__).parent.parent
_CONFIG = '''"""Forget digits.

Command: clujax run configs/demo.py --workdir runs/demo
Time: two minutes
"""
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"system": "unlearning", "seed": 0})
'''


def _sample():
    spec = importlib.util.spec_from_file_location("reports_sample", _ROOT / "tests" / "reports" / "sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with one config, whose system answers with whatever the test puts into `outcome`."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text(_CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def experiment(monkeypatch):
    """Put a system in the place of the real one: what is tested is the command around it."""
    calls = []

    def run(config, workdir):
        calls.append((config, workdir))
        if isinstance(experiment.outcome, BaseException):
            raise experiment.outcome
        if experiment.outcome is not None:
            experiment.outcome(workdir)

    experiment = types.SimpleNamespace(run=run, calls=calls, outcome=None)
    monkeypatch.setitem(sys.modules, "clujax.unlearning.experiment", experiment)
    monkeypatch.setattr(cli, "_systems", lambda: ["unlearning"])
    return experiment


def test_run_hands_over_the_overridden_config_and_reports(here, experiment, capsys):
    experiment.outcome = lambda workdir: _sample().write(workdir, rows=1)
    assert cli.main(["run", "configs/demo.py", "--workdir", "runs/demo", "--seed=7"]) == 0
    ((config, workdir),) = experiment.calls
    assert config.seed == 7
    assert workdir == pathlib.Path("runs/demo")
    printed = capsys.readouterr().out
    assert "SFR-on" in printed
    assert "report: runs/demo/report.html" in printed
    assert (here / "runs" / "demo" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sed=1"], "did you mean 'seed'?"),
        (["--config.seed=x"], "takes a whole number"),
        (["--system=unlerning"], "'unlerning'"),
    ],
)
def test_a_bad_config_is_one_message_and_exit_code_2(here, experiment, capsys, arguments, words):
    assert cli.main(["run", "configs/demo.py", "--workdir", "runs/demo", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.startswith("clujax run: ")
    assert message.count("\n") == 1
    assert not experiment.calls
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (errors.DataNotFoundError("mnist is not on this machine"), 2, "mnist is not on this machine"),
        (errors.RequestError("class 11 does not exist"), 2, "class 11"),
        (OSError(28, "No space left on device", "runs/demo/x"), 2, "disk of runs/demo/x is full"),
        (KeyboardInterrupt(), 130, "same command again"),
    ],
)
def test_what_goes_wrong_is_told_without_a_traceback(here, experiment, capsys, outcome, code, words):
    experiment.outcome = outcome
    assert cli.main(["run", "configs/demo.py", "--workdir", "runs/demo"]) == code
    assert words in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(here, experiment):
    experiment.outcome = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "configs/demo.py", "--workdir", "runs/demo"])


def test_overrides_without_an_equals_sign_are_explained(here, experiment, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "configs/demo.py", "--workdir", "runs/demo", "--seed", "3"])
    assert caught.value.code == 2
    assert "--key=value" in capsys.readouterr().err


def test_workdir_that_is_a_file_is_refused(here, experiment, capsys):
    (here / "taken").write_text("")
    assert cli.main(["run", "configs/demo.py", "--workdir", "taken"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_report_merges_runs_and_prints_markdown(tmp_path, capsys):
    sample = _sample()
    runs = [str(sample.write(tmp_path / name, seeds, rows=1)) for name, seeds in (("a", (0,)), ("b", (0, 1, 2)))]
    assert cli.main(["report", *runs, "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| **a: SFR-on** |" in printed
    assert "| **b: SFR-on** |" in printed
    assert all((tmp_path / name / "report.html").is_file() for name in "ab")


def test_report_writes_a_leaderboard_beside_the_reports(tmp_path, capsys):
    sample = _sample()
    whole = sample.benchmark(rivals=sample.RIVALS[:2] + sample.RIVALS[-1:])
    whole["requests"] = whole["requests"][:1]
    runs = [str(sample.write_run(tmp_path / name, whole)) for name in ("a", "b")]
    page = tmp_path / "board.html"
    assert cli.main(["report", *runs, "--leaderboard", str(page)]) == 0
    printed = capsys.readouterr().out
    assert f"leaderboard: {page}" in printed
    assert "(+1.3)" not in printed  # the page instead of the tables
    assert "SFR-on" in page.read_text()
    assert (tmp_path / "b" / "report.html").is_file()


def test_markdown_shows_all_metrics_when_asked(tmp_path, capsys):
    sample = _sample()
    whole = sample.benchmark(rivals=sample.RIVALS[:3])
    whole["requests"] = whole["requests"][:1]
    run = str(sample.write_run(tmp_path / "a", whole))
    assert cli.main(["report", run, "--markdown"]) == 0
    assert "ZRF" not in capsys.readouterr().out
    assert cli.main(["report", run, "--markdown", "--full"]) == 0
    assert "ZRF" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "page", "words"),
    [
        ("aa", "board.html", "given twice"),
        ("ab", "board.pdf", ".html or .md"),
        ("ab", "none/board.html", "no directory"),
        ("ac", "board.html", "different metrics (KL)"),
    ],
)
def test_a_leaderboard_that_cannot_be_is_one_message_and_no_page(tmp_path, capsys, names, page, words):
    sample = _sample()
    for name in "abc":
        whole = sample.result()
        if name == "c":
            whole["requests"][0]["metrics"][5]["unit"] = "bits"
        sample.write_run(tmp_path / name, whole)
    runs = [str(tmp_path / name) for name in names]
    assert cli.main(["report", *runs, "--leaderboard", str(tmp_path / page)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.startswith("clujax report: ")
    assert message.count("\n") == 1
    assert not (tmp_path / page).exists()
    assert not list(tmp_path.rglob("report.html"))


def test_report_of_an_unfinished_run_says_so(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "has not finished" in capsys.readouterr().err


def test_list_shows_each_config_with_its_sentence_and_time(here, capsys):
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for word in ("configs/demo.py", "Forget digits.", "two minutes", "clujax run configs/demo.py --workdir runs/demo"):
        assert word in printed
    assert cli.main(["list", "--under", "elsewhere"]) == 2


def test_doctor_names_versions_devices_and_data(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("CLUJAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("Python 3.", "jaxlib", "Devices", "cpu", "digits", "1,438"):
        assert word in printed
    # A set that no package carries, on a machine that was told of no other place.
    assert "cifar100" in printed.split("how to get it")[1]
    assert "--data.path" in printed


def test_a_slip_is_answered_before_jax_is_loaded(here):
    script = (
        "import sys; from clujax import cli; code = cli.main(sys.argv[1:]); "
        "print([name for name in ('jax', 'matplotlib', 'rich') if name in sys.modules]); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "run", "configs/demo.py", "--workdir", "runs/demo", "--sed=1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(_ROOT)}, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'seed'?" in done.stderr
    assert done.stdout.strip() == "[]"
