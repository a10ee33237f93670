"""A run from config to result: its record, its resumption after a real kill, and what it refuses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from clujax import configuration, reports
from clujax.errors import ConfigError, RequestError
from clujax.unlearning import experiment

CONFIG = pathlib.Path(__file__).parent / "tiny.py"


def load(*overrides):
    return configuration.load(str(CONFIG), overrides)


def numbers(result):
    """What must not change from run to run: everything but times."""
    return [
        [
            (method["key"], [{k: v for k, v in row.items() if k != "seconds"} for row in method["per_seed"]])
            for method in request["methods"]
        ]
        for request in result["requests"]
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    return workdir, experiment.run(load(), workdir)


def test_result_is_what_reports_read(finished):
    workdir, result = finished
    run = reports.read(workdir)
    reports.check(run.result)
    assert [request["key"] for request in result["requests"]] == ["random", "class"]
    for request in result["requests"]:
        keys = [method["key"] for method in request["methods"]]
        extra = ["unsir"] if request["key"] == "class" else []
        assert keys == [
            "original",
            "retrain",
            "retrain_again",
            "finetune",
            "diverging",
            "exploding",
            "parts",
            "sfron",
            *extra,
        ]
        assert set(request["noise_floor"]) >= {
            "FA",
            "RA",
            "TA",
            "MIA",
            "SVC",
            "AUC",
            "KL",
            "JS",
            "ZRF",
            "Relearn",
            "ToW",
            "AvgD",
        }
        assert request["noise_floor"]["ToW"] < 0.5  # a distance to 1, not the value
        assert request["noise_models"] == 3
        assert len(request["noise_ellipse"]["points"]) == 4
        sfron = request["methods"][keys.index("sfron")]
        assert set(sfron["larger_than_noise"]) <= set(request["noise_limit"])
        assert 0 <= sfron["values"]["Relearn"] <= 4
        low, high = sfron["interval"]["TA"]
        assert low <= sfron["values"]["TA"] - request["methods"][1]["values"]["TA"] <= high
        assert sfron["gap"]["AvgD"] == pytest.approx(
            np.mean([sfron["gap"][key] for key in ("FA", "RA", "TA", "MIA")]), abs=1e-9
        )
        assert 0 < sfron["density"] < 1
    assert result["requests"][0]["num_forget"] == 40
    assert result["source"]["path"] == "scikit-learn/digits"
    assert len(run.evidence) == 2
    steps = run.evidence[0]["trajectory_step"]
    assert steps.tolist() == [0, 3]
    assert np.all(np.isfinite(run.evidence[0]["trajectory_norm_newton"]))


def test_a_method_that_diverges_is_told_and_stops_nobody(finished):
    _, result = finished
    for request in result["requests"]:
        rows = {method["key"]: method for method in request["methods"]}
        for key, words in (("diverging", "no longer finite at step"), ("exploding", "outputs are not finite")):
            assert rows[key]["collapsed"]
            assert rows[key]["values"] == {}
            assert words in rows[key]["warnings"][0]


def test_a_choice_is_made_once_on_validation_rows_and_kept(finished):
    workdir, result = finished
    for request in result["requests"]:
        choice = json.loads((workdir / "stages" / f"{request['key']}_finetune_choice.json").read_text())
        assert set(choice["gaps"]) == {"learning_rate 0.0001", "learning_rate 0.05"}
        assert choice["gaps"][choice["best"]] == min(choice["gaps"].values())
        row = next(method for method in request["methods"] if method["key"] == "finetune")
        assert f"learning_rate {row['settings']['learning_rate']}" == choice["best"]


def test_reference_metrics_are_recomputed_from_the_kept_networks(finished):
    """FA of the retrained network in the table is that of the parameters in its checkpoint."""
    from clujax import data, training
    from clujax.adaptation.settings import build_classifier, select_rows

    workdir, result = finished
    config = load()
    dataset = data.load("digits")
    train, _, _ = select_rows(dataset, config.data)
    classifier = build_classifier(config, train, 10)
    params, stats = classifier.init(jax.random.key(0), train["x"][:1])
    from clujax.adaptation.optimizers import sgd

    like = training.init_state(params, stats, sgd(0.1, 1), jax.random.key(0))
    with training.Checkpoints(workdir / "stages" / "seed0" / "random" / "retrain" / "checkpoints") as checkpoints:
        _, state, _ = checkpoints.restore(like)
    split = data.make_split(train["y"], "random", seed=0, fraction=0.1)
    logits, _ = classifier.apply(state.params, state.stats, train["x"][split.forget])
    accuracy = 100 * np.mean(np.argmax(logits, -1) == train["y"][split.forget])
    row = next(method for method in result["requests"][0]["methods"] if method["key"] == "retrain")
    assert row["values"]["FA"] == pytest.approx(float(accuracy), abs=1e-4)


def test_a_finished_run_is_not_run_again(finished):
    workdir, result = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert experiment.run(load(), workdir)["requests"] == json.loads(json.dumps(result["requests"]))
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_a_killed_run_resumes_to_the_same_numbers(finished, tmp_path):
    """SIGKILL in the middle of the run's networks; the same command again ends with the same table."""
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "clujax.cli", "run", str(CONFIG), "--workdir", str(workdir), "--carry_out=random"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stage = workdir / "stages" / "seed0" / "random" / "finetune"
    deadline = time.monotonic() + 300
    while not stage.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "result.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = numbers(json.loads((workdir / "result.json").read_text()))
    assert again == numbers(json.loads(json.dumps(finished[1])))[:1]  # of the first request alone, for time's sake
    assert (workdir / "report.html").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["--carry_out=('monthly',)"], ConfigError, "carry_out is 'monthly'; expected one of class, random"),
        (["--compare=('sfron',)"], ConfigError, "lacks 'retrain'"),
        (["--compare=('retrain','salum')"], ConfigError, "'salum'; expected one of"),
        (["--model.name=transformer"], ConfigError, "model.name is 'transformer'"),
        (["--data.train_rows=9999"], ConfigError, "digits has 1438 train rows"),
        (["--requests.random.fraction=1.5"], RequestError, "fraction is 1.5"),
        (["--requests.class.classes=(12,)"], RequestError, r"classes \[12\] are absent"),
        (["--methods.sfron.objective.exponent=-1.0"], ConfigError, "methods.sfron: exponent is -1"),
        (["--methods.sfron.schedule=exponential"], ConfigError, "expected one of constant, cosine, linear, quadratic"),
        (["--methods.sfron.repair=0"], ConfigError, "methods.sfron: repair is 0"),
        (["--compare=('retrain','sfron','unsir')"], RequestError, "unsir needs 'classes'"),
        (["--data.validation_rows=0"], ConfigError, "a sweep chooses on validation rows"),
        (["--methods.finetune.sweep.learning_rate=(-1.0, 0.1)"], ConfigError, "methods.finetune: learning_rate is -1"),
        (["--methods.diverging.method=neg_grad"], ConfigError, "methods.diverging.method is 'neg_grad'"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_made(tmp_path, overrides, error, words):
    with pytest.raises(error, match=words):
        experiment.run(load(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_config_is_left_alone(finished):
    workdir, _ = finished
    with pytest.raises(ConfigError, match=r"belongs to another config.*steps"):
        experiment.run(load("--methods.sfron.steps=7"), workdir)
