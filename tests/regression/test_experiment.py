import json
import pathlib

import jax
import numpy as np
import pytest

import clujax
from clujax import cli, configuration, reports
from clujax.errors import ConfigError
from clujax.regression import FitOptions, checkpoints, experiment, fit_lab_rbf

CONFIGS = pathlib.Path(clujax.__file__).parent.parent / "configs" / "regression"
TINY = [
    "--seeds=0,", "--fit.n_max=30", "--fit.grow_steps=4", "--fit.final_steps=4", "--choose.kernels=gaussian,",
    "--choose.ridges=0.1,", "--choose.bandwidths=3.0,", "--choose.grow_steps=2", "--choose.final_steps=2",
    "--choose.size=false", "--compare=krr_rbf,ard",
]  # fmt: skip


def tiny(*more):
    return configuration.load(CONFIGS / "diabetes.py", [*TINY, *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, experiment.run(tiny(), workdir)


def test_a_run_leaves_its_result_and_figures(finished, capsys):
    workdir, _ = finished
    record = json.loads((workdir / "result.json").read_text())["regression"]
    assert [each["key"] for each in record["methods"]] == ["lab", "krr_rbf", "ard"]
    assert record["methods"][0]["values"]["support"] == 30
    assert record["methods"][1]["values"]["support"] == 354
    assert cli.report([str(workdir)]) == 0
    printed = capsys.readouterr().out
    assert "LAB-RBF" in printed
    assert "retrain" not in printed
    assert {file.stem for file in (workdir / "figures").glob("*.png")} == {"fit", "support", "growth", "relevance"}
    page = (workdir / "report.html").read_text()
    assert page.count("<figure") == 4
    assert "Relevance" in page or "tells that feature" in page
    assert "| **LAB-RBF** |" in reports.markdown([reports.read(workdir)])


def test_a_finished_run_returns_its_result_and_another_config_is_refused(finished):
    workdir, _ = finished
    assert experiment.run(tiny(), workdir) == json.loads((workdir / "result.json").read_text())
    with pytest.raises(ConfigError, match=r"fit.n_max"):
        experiment.run(tiny("--fit.n_max=20"), workdir)


def test_a_fit_that_was_killed_goes_on_and_equals_an_unbroken_one(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (70, 2))
    y, options = x[:, 0] ** 2, FitOptions(n_max=30, n_init=8, grow_steps=5, final_steps=5, batch_size=16)
    key = jax.random.key(3)

    def kill(state):
        if state.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.fit_with_checkpoints(tmp_path / "fit", key, x, y, options, callback=kill)
    began = []
    model, state = checkpoints.fit_with_checkpoints(tmp_path / "fit", key, x, y, options, callback=began.append)
    assert [each.round for each in began] == [3]  # the two rounds before are not done again
    whole, unbroken = fit_lab_rbf(key, x, y, options)
    np.testing.assert_array_equal(model.theta, whole.theta)
    assert state.history == unbroken.history


def test_a_killed_run_keeps_its_finished_cells(tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(experiment.METHODS, "krr_rbf", die)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(tiny(), tmp_path)
    kept = (tmp_path / "stages" / "seed0" / "lab" / "cell.json").read_text()
    result = experiment.run(tiny(), tmp_path)
    assert (tmp_path / "stages" / "seed0" / "lab" / "cell.json").read_text() == kept
    assert len(result["regression"]["methods"]) == 3


def test_digits_are_classified(tmp_path):
    config = configuration.load(
        CONFIGS / "digits.py",
        ["--data.train_rows=256", "--fit.n_max=40", "--fit.grow_epochs=1", "--fit.final_epochs=1", "--compare=()"],
    )
    result = experiment.run(config, tmp_path)
    assert result["regression"]["methods"][0]["values"]["accuracy"] > 60
    reports.build(tmp_path)
    assert {file.stem for file in (tmp_path / "figures").glob("*.png")} == {"support", "growth", "relevance"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--task=ranking", "regression or classification"),
        ("--compare=forest,", "expected one of lab, krr_rbf"),
        ("--fit.kernel=rbf", "laplacian, gaussian"),
        ("--data.test_share=1.5", "between 0 and 1"),
    ],
)
def test_a_bad_config_claims_no_directory(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        experiment.run(tiny(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.py"))])
def test_every_config_loads(name):
    config = configuration.load(CONFIGS / f"{name}.py")
    assert config.system == "regression"
    configuration.digest(config)
