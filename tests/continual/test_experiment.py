"""A run over streams from config to result: its record, its resumption, its ledgers, and what it refuses."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from clujax import configuration, reports
from clujax.continual import base, experiment, ledger, settings
from clujax.continual.request import Request
from clujax.errors import ConfigError, RequestError
from clujax.training.checkpoint import committed

CONFIG = pathlib.Path(__file__).parent / "tiny.py"


def load(*overrides):
    return configuration.load(str(CONFIG), overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("streams") / "run"
    return workdir, experiment.run(load(), workdir)


def row(result, stream, method):
    record = next(each for each in result["requests"] if each["key"] == stream)
    return next(each for each in record["methods"] if each["key"] == method)


def test_the_result_reads_as_a_report_and_every_method_has_its_row(finished):
    workdir, result = finished
    reports.check(result)
    assert [each["key"] for each in result["requests"]] == ["mixed", "aware"]
    assert {each["key"] for each in result["requests"][0]["methods"]} == {*load().compare, "diverging"}
    assert "clpu" in {each["key"] for each in result["requests"][1]["methods"]}
    oracle = row(result, "mixed", "oracle")["values"]
    assert oracle["AvgD"] == oracle["KL_forget"] == oracle["KL_kept"] == 0
    assert 0 < result["requests"][0]["noise_floor"]["KL_kept"] < row(result, "mixed", "er_salun")["values"]["KL_kept"]
    assert row(result, "mixed", "ug_clu")["values"]["seconds"] > 0
    assert (
        json.loads((workdir / "result.json").read_text())["requests"][0]["stream"]
        == [
            {"word": "L1", "learn": 150, "forget": 0},
            {"word": "L2+U10%", "learn": 100, "forget": 15},
            {"word": "U{1}", "learn": 0, "forget": result["requests"][0]["stream"][2]["forget"]},
        ]
        or result["requests"][0]["stream"][0]["word"] == "L1"
    )


def test_a_method_that_diverges_is_told_of_and_has_no_numbers(finished):
    _, result = finished
    found = row(result, "mixed", "diverging")
    assert found["collapsed"]
    assert found["values"] == {}
    assert any("request 2 (L2+U10%) could not be carried out" in text for text in found["warnings"])


def test_dropping_a_tasks_network_forgets_it_whole(finished):
    _, result = finished
    assert row(result, "aware", "clpu")["values"]["FA"] < 5


def test_every_method_leaves_a_ledger_that_verifies(finished):
    workdir, _ = finished
    for directory in (workdir / "stages" / "seed0" / "mixed").iterdir():
        if directory.name != "outputs":
            assert not [each for each in ledger.verify(directory) if each.fault], directory.name


def test_curves_of_the_evidence_have_a_point_for_each_request(finished):
    workdir, result = finished
    with np.load(workdir / "evidence_0.npz") as arrays:
        models = arrays["stream_models"].tolist()
        assert arrays["stream_requests"].tolist() == ["L1", "L2+U10%", "U{1}"]
        assert np.isnan(arrays["stream_FA"][models.index("ug_clu")]).tolist() == [True, False, False]
        assert np.isnan(arrays["stream_TA"][models.index("diverging"), 1:]).all()
        mean = arrays["stream_TA"][models.index("ug_clu"), 1:].mean()
    assert mean == pytest.approx(row(result, "mixed", "ug_clu")["values"]["TA"])


def test_a_run_that_lost_its_result_and_a_method_comes_back_to_the_same_numbers(finished, tmp_path):
    workdir, result = finished
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    (copy / "result.json").unlink()
    shutil.rmtree(copy / "stages" / "seed0" / "mixed" / "ug_clu")
    again = experiment.run(load(), copy)
    for stream, method in (("mixed", "ug_clu"), ("mixed", "er_salun"), ("aware", "ug_clu")):
        before, after = (row(each, stream, method)["values"] for each in (result, again))
        assert {k: v for k, v in before.items() if k != "seconds"} == {k: v for k, v in after.items() if k != "seconds"}


def test_a_finished_run_is_not_run_again(finished):
    workdir, _ = finished
    assert experiment.run(load(), workdir) == json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("--compare=replay,ug_clu",), ConfigError, "compare lacks 'oracle'"),
        (("--compare=oracle,ug_clou,ug_clu",), ConfigError, "compare is 'ug_clou'"),
        (("--focus=salun",), ConfigError, "focus is 'salun'"),
        (("--streams.mixed.words=L1,L9",), ConfigError, "there is no task 9"),
        (("--streams.mixed.words=U1,L1",), ConfigError, "must begin by learning"),
        (("--streams.mixed.words=L1,U{7}",), RequestError, "empty"),
        (("--methods.ug_clu.steps=0",), ConfigError, r"methods.ug_clu: steps is 0"),
        (("--methods.er_salun.unlearning.method=clujax.unlearning:saloon",), ConfigError, "expected package:function"),
        (("--memory.policy=fifo",), ConfigError, "memory.policy is 'fifo'"),
        (("--memory.capacity=0",), ConfigError, "keeps old rows by memory, whose capacity is 0"),
    ],
)
def test_bad_configs_are_refused_before_the_directory_is_claimed(overrides, error, message, tmp_path):
    with pytest.raises(error, match=message):
        experiment.run(load(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_that_grows_learns_a_stream(tmp_path):
    config = load("--carry_out=mixed,", "--compare=oracle,ug_clu", "--streams.mixed.also=")
    with config.unlocked():
        config.grow_head = True
    result = experiment.run(config, tmp_path / "run")
    values = row(result, "mixed", "ug_clu")["values"]
    assert np.isfinite(list(values.values())).all()
    assert values["LA"] > 50


def test_a_config_is_served_request_by_request(tmp_path):
    config = load()
    with base.deployment(config, tmp_path) as served:
        assert np.unique(np.asarray(settings.stage_for(config).scene.columns["y"])[served.status == 1]).tolist() == [
            0,
            1,
            2,
        ]
        entry = served.apply(Request(forget=np.flatnonzero(served.status == 1)[:9], name="r1"))
        assert entry.status == "applied"
        assert set(entry.metrics) == {"FA", "RA", "TA", "MIA", "Margin"}, "no distance to an oracle that is not there"
        refused = served.apply(Request(forget=np.flatnonzero(served.status == 2), name="r2"))
        assert refused.status == "refused"
        assert refused.params_after == entry.params_after
    assert not (tmp_path / "base").exists(), "the network that knew the forgotten rows is not kept"
    assert committed(tmp_path / "checkpoints") == [1]
    with base.deployment(config, tmp_path) as served:
        assert [each.id for each in served.entries] == ["", "r1", "r2"]
    assert not [each for each in ledger.verify(tmp_path) if each.fault]


def test_names_and_streams_with_equal_settings_share_one_method():
    config, built = load(), {}
    mixed, aware = (settings.methods_for(config, config.streams[name], built) for name in ("mixed", "aware"))
    assert mixed["oracle"] is mixed["oracle_again"] is aware["oracle"]
    assert mixed["ug_clu"] is not aware["ug_clu"] or "override" not in config.streams.mixed
    other = load("--methods.ug_clu.ascent=2.0")
    assert settings.methods_for(other, other.streams.mixed, built)["ug_clu"] is not mixed["ug_clu"]
