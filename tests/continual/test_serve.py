"""Requests as lines: whatever stands in them, each good one is carried out once and each bad one is named."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from continual import small_stream
from continual.small_stream import STREAM, contents
from hypothesis import given
from hypothesis import strategies as st

from clujax import cli
from clujax.continual import serve
from clujax.continual.asked import Asked, from_line
from clujax.continual.ledger import APPLIED
from clujax.continual.serve import Stop, Tally, lines_of
from clujax.errors import ConfigError, RequestError


def as_line(request):
    sides = {"learn": list(request.learn), "forget": list(request.forget), "relearn": request.relearn}
    return json.dumps({"id": request.name} | sides)


LINES = [as_line(request) for request in STREAM]


# One line.


def test_a_line_is_a_request():
    line = '{"id": "r-17", "learn": [4, 5], "forget_classes": [2], "task": 3, "relearn": true}'
    assert from_line(line) == Asked("r-17", learn=[4, 5], forget_classes=[2], task=3, relearn=True)
    assert from_line('{"id": "é"}') == Asked("é")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a", "learn": [1, 2]', "not JSON: Expecting ',' delimiter"),
        ('["a"]', "a JSON list; expected an object with an id"),
        ('{"learn": [1]}', "id is None; expected a printable text"),
        ('{"id": 7, "learn": [1]}', "id is 7"),
        ('{"id": "", "learn": [1]}', "id is ''"),
        ('{"id": "a\\nb"}', r"id is 'a\\nb'"),
        ('{"id": "\\ud800"}', "id is"),
        ('{"id": "a", "lern": [1]}', "unknown key 'lern': did you mean 'learn'"),
        ('{"id": "a", "learn": [1], "learn": [2]}', "a key twice"),
        ('{"id": "a", "learn": 1}', "learn is 1; expected a list"),
        ('{"id": "a", "learn": [1.0]}', r"learn holds 1\.0; expected whole numbers"),
        ('{"id": "a", "forget": [true]}', "forget holds True"),
        ('{"id": "a", "forget": ["1"]}', "forget holds '1'"),
        ('{"id": "a", "forget": [99999999999999999999]}', "forget holds 9999"),
        ('{"id": "a", "forget": [NaN]}', "forget holds nan"),
        ('{"id": "a", "task": "3"}', "task is '3'"),
        ('{"id": "a", "relearn": 1}', "relearn is 1; expected true or false"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"id": "a", "forget": [' + "1" * 5000 + "]}", "not JSON"),
    ],
)
def test_a_bad_line_is_told_what_is_wrong(line, words):
    with pytest.raises(RequestError, match=words):
        from_line(line)


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
KEYS = st.sampled_from(["id", "learn", "forget", "task", "relearn", "learn_classes", "x"])


@given(st.text() | st.dictionaries(KEYS, VALUES).map(json.dumps))
def test_any_line_is_a_request_or_refused(line):
    with contextlib.suppress(RequestError):
        assert from_line(line).name.isprintable()


# Many lines.


@pytest.mark.parametrize("chunk", [1, 3, 1 << 16])
def test_lines_come_numbered_however_they_are_cut(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(serve, "CHUNK", chunk)
    file = tmp_path / "requests.jsonl"
    file.write_bytes("\ufeffone é\r\n\n\ntwo\nlast".encode())
    assert list(lines_of(file)) == [(1, "one é\r"), (2, ""), (3, ""), (4, "two"), (5, "last")]
    (bad,) = [text for _, text in lines_of(written(tmp_path, b'{"id": "\xff"}\n'))]
    with pytest.raises(RequestError, match="id is"):
        from_line(bad)


def written(folder, content):
    (folder / "bytes").write_bytes(content)
    return folder / "bytes"


def collect(source, count, **options):
    """The first lines of a source that goes on, and what it does when it is stopped."""
    found = []
    for item in lines_of(source, stop=lambda: len(found) == count, **options):
        found.append(item)
    return found


def later(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_growing_file_is_followed_and_half_a_line_waited_for(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text("one\ntw")

    def write():
        time.sleep(0.3)
        with file.open("a") as more:
            more.write("o\nthree\n")

    thread = later(write)
    assert collect(file, 3, follow=True) == [(1, "one"), (2, "two"), (3, "three")]
    thread.join()


def test_a_followed_file_that_is_cut_short_is_an_error(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text("one\ntwo\n")
    lines = lines_of(file, follow=True)
    assert [next(lines), next(lines)] == [(1, "one"), (2, "two")]
    file.write_text("")
    with pytest.raises(ConfigError, match="cut short"):
        next(lines)


@pytest.mark.parametrize("follow", [False, True])
def test_a_pipe_is_waited_for_and_may_be_opened_again(tmp_path, follow):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        for word in ("one", "two") if follow else ("one",):
            time.sleep(0.3)
            with pipe.open("w") as end:
                end.write(f"{word}\n")

    thread = later(write)
    assert collect(pipe, 2, follow=follow) == ([(1, "one"), (2, "two")] if follow else [(1, "one")])
    thread.join()


def test_standard_input_ends_where_its_pipe_ends(monkeypatch):
    for follow in (False, True):
        kept, (ours, theirs) = os.dup(0), os.pipe()
        os.dup2(ours, 0)
        try:
            os.write(theirs, b"one\ntwo")
            os.close(theirs)
            assert list(lines_of("-", follow=follow)) == [(1, "one"), (2, "two")]
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            os.close(ours)


def test_a_missing_source_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match="is not there; name a JSONL file or pipe"):
        lines_of(tmp_path / "no.jsonl")
    with pytest.raises(ConfigError, match="is a directory"):
        lines_of(tmp_path)


def test_the_first_signal_asks_to_stop_and_the_second_stops(request):
    said = []
    stop = Stop(said.append)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    before = signal.getsignal(signal.SIGINT)
    with stop.listening():
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["SIGTERM: stopping after the request at hand; once more stops at once."]
    assert signal.getsignal(signal.SIGINT) is before


# To a deployment.


@pytest.fixture(scope="module")
def parts():
    scene = small_stream.scene()
    return {"scene": scene, "rules": small_stream.rules(scene)}


@pytest.fixture(scope="module")
def calm(parts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("calm") / "run"
    with small_stream.deploy(directory, **parts) as deployment:
        for request in STREAM:
            deployment.apply(request)
    return directory, deployment.entries


def test_bad_lines_are_refused_one_by_one_and_the_rest_goes_on(parts, calm, tmp_path):
    said = []
    lines = ["{", LINES[0], "", LINES[1], "[]", LINES[2], '{"id": "two", "learn": [5]}', LINES[0], *LINES[3:], "null"]
    with small_stream.deploy(tmp_path, **parts) as deployment:
        tally = serve.serve(deployment, enumerate(lines, 1), say=said.append)
        assert contents(deployment.entries) == contents(calm[1])
        assert tally == Tally(applied=5, passed=1, refused=2, malformed=3)
        again = serve.serve(deployment, enumerate(LINES, 1), say=said.append)
        assert again == Tally(passed=5, refused=1)
    assert said[0] == f"{tmp_path}: serving; 0 requests are in the ledger"
    assert said[1].startswith("line 1: not a request: the line is not JSON: ")
    assert said[2].startswith("line 2: two: applied in ")
    assert said[2].endswith("s (learn 20)")
    assert said[5] == "line 6: again: refused: rows 0 are to be forgotten but are forgotten already."
    assert said[6].startswith("line 7: refused: request 'two' is not the one of that id")
    assert said[7] == "line 8: two: applied before, passed over"
    assert said[-4] == (
        "line 3: again: refused before, passed over: some rows are to be forgotten but are forgotten already."
    )


@pytest.mark.filterwarnings("ignore:.*checkpoints were lost")
def test_a_log_that_lacks_lost_requests_is_told_which(parts, calm, tmp_path):
    shutil.copytree(calm[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "5")
    said = []
    with small_stream.deploy(tmp_path / "run", **parts) as deployment:
        serve.serve(deployment, enumerate(LINES[:-1], 1), say=said.append)
        assert [entry.id for entry in deployment.missing] == ["back"]
        serve.serve(deployment, enumerate(LINES, 1), say=said.append)
        assert not deployment.missing
    assert said[-1].startswith("line 6: back: applied once more, with the result that the ledger has in ")


# From the command line.


@pytest.fixture
def command(parts, tmp_path, monkeypatch):
    """`clujax serve-requests` for the small stream; what builds a deployment from a config is not what is tested."""

    def deployment(config, workdir):
        return small_stream.deploy(workdir, **parts, config=config.to_dict())

    monkeypatch.setattr("clujax.continual.base.deployment", deployment)
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'system': 'continual', 'seed': 0, 'widths': (8,)})\n"
    )
    (tmp_path / "requests.jsonl").write_text("\n".join(LINES))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*more, source="requests.jsonl"):
        words = ["serve-requests", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]
        return cli.main([*words, "--from", str(tmp_path / source), *more])

    return call


def test_requests_are_served_shown_and_verified(command, calm, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert command() == 1  # one was refused
    told = capsys.readouterr()
    assert "line 4: both: applied in" in told.err
    assert "5 applied, 0 passed, 1 refused, 0 malformed" in told.err
    assert [line.split()[1] for line in told.out.splitlines()[2:]] == ["two", "three", "again", "both", "four", "back"]
    assert "norm" in told.out
    (tmp_path / "one.jsonl").write_text(LINES[0])
    assert command(source="one.jsonl") == 0  # passed over
    capsys.readouterr()
    assert cli.main(["ledger", "show", run]) == 0
    assert "some rows are to be forgotten but are forgotten already." in capsys.readouterr().out
    assert cli.main(["ledger", "verify", run]) == 0
    assert "ledger and checkpoints fit" in capsys.readouterr().out
    book = tmp_path / "run" / "ledger.jsonl"
    book.write_text(book.read_text().replace('"forgotten": 3.0', '"forgotten": 2.0'))
    assert cli.main(["ledger", "verify", run]) == 1
    assert "line 3 ('three rows'): its content digest is not that of its fields" in capsys.readouterr().out
    assert command() == 2
    assert "clujax ledger verify" in capsys.readouterr().err
    assert cli.main(["ledger", "show", str(tmp_path)]) == 2
    assert "has no ledger.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "source", "words"),
    [
        ((), "none.jsonl", "none.jsonl is not there"),
        (("--sed=1",), "requests.jsonl", "did you mean 'seed'"),
        (("--system=unlearning",), "requests.jsonl", "requests are served for 'continual'"),
    ],
)
def test_a_slip_is_one_message_before_any_work(command, tmp_path, capsys, more, source, words):
    assert command(*more, source=source) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_config_on_the_same_directory_is_refused(command, tmp_path, capsys):
    (tmp_path / "requests.jsonl").write_text(LINES[0])
    assert command() == 0
    assert command("--seed=1") == 2
    assert "belongs to another config: seed is 0 there and 1 here" in capsys.readouterr().err


def test_a_followed_file_is_served_until_a_signal(command, tmp_path, monkeypatch):
    (tmp_path / "requests.jsonl").write_text(LINES[0] + "\n" + LINES[1])  # the second is not whole yet

    def write():
        book = tmp_path / "run" / "ledger.jsonl"
        while not (book.exists() and book.read_text().count("\n") == 2):
            time.sleep(0.02)
        with (tmp_path / "requests.jsonl").open("a") as more:
            more.write("\n")
        while book.read_text().count("\n") < 3:
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    thread = later(write)
    assert command("--follow") == 0
    thread.join()
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines[1:]] == [APPLIED] * 2


def test_the_ledger_is_asked_for_in_words():
    done = subprocess.run(
        [sys.executable, "-m", "clujax.cli", "ledger", "verfy", "x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "invalid choice: 'verfy'" in done.stderr
