import json

import pytest

from clujax.errors import ConfigError
from clujax.training import workdir

CONFIG = {"seed": 0, "model": {"name": "mlp", "widths": (256, 128)}, "lr": 0.1, "note": None}


def test_a_directory_goes_from_new_to_resumable_to_complete(tmp_path):
    assert workdir.claim(tmp_path / "run", CONFIG) == "new"
    assert workdir.claim(tmp_path / "run", CONFIG) == "resumable"
    workdir.write_result(tmp_path / "run", {"accuracy": 0.9})
    assert workdir.claim(tmp_path / "run", CONFIG) == "complete"
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"accuracy": 0.9}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "result.json"]


def test_a_directory_of_another_config_is_refused_and_the_keys_named(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    other = CONFIG | {"model": {"name": "cnn"}, "epochs": 3}
    with pytest.raises(ConfigError, match="another config") as caught:
        workdir.claim(tmp_path, other)
    message = str(caught.value)
    assert "epochs is absent there and 3 here" in message
    assert "model.name is 'mlp' there and 'cnn' here" in message
    assert "model.widths is [256, 128] there and absent here" in message
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.1
    with pytest.raises(ConfigError, match=r"note is None there and absent here\."):
        workdir.claim(tmp_path, {k: v for k, v in CONFIG.items() if k != "note"})
    assert not (tmp_path / "result.json").exists()


def test_what_is_not_a_run_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        workdir.claim(tmp_path / "file", CONFIG)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match="not known whose"):
        workdir.claim(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text('{"cut')
    with pytest.raises(ConfigError, match="is not JSON"):
        workdir.claim(tmp_path, CONFIG)


def test_a_result_is_whole_or_not_there(tmp_path):
    with pytest.raises(TypeError):
        workdir.write_result(tmp_path, {"good": 1, "bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_full_disk(small_disk):
    disk, _ = small_disk
    workdir.claim(disk, CONFIG)
    with pytest.raises(OSError, match=r"result\.json was not written and nothing of it is left"):
        workdir.write_result(disk, {"scores": "x" * 1_000_000})
    assert [p.name for p in disk.iterdir()] == ["config.json"]
    workdir.write_result(disk, {"scores": [1.0]})
    assert workdir.claim(disk, CONFIG) == "complete"
