import io
import json
import pathlib

import pytest
from rich.console import Console
from sample import benchmark, write

from clujax import reports


def _printed(runs, width):
    console = Console(width=width, file=io.StringIO())
    for table in reports.tables(runs, width):
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120, 160])
def test_terminal_table_never_cuts_a_number(run, width):
    text = _printed([run], width)
    assert "…" not in text
    for word in ("SFR-on", "89.9", "(+2.7)", "→", "↓", "noise", "remain accuracy fell by 13"):
        assert word in text
    assert max(map(len, text.splitlines())) <= width


def test_three_seeds_show_their_spread(tmp_path):
    text = _printed([reports.read(write(tmp_path / "three", seeds=(0, 1, 2)))], 80)
    assert "±0.4" in text
    assert "…" not in text
    assert "3 seeds" in " ".join(text.split())


def test_markdown_is_a_whole_table(run):
    text = reports.markdown([run])
    lines = [line for line in text.split("\n\n")[1].splitlines()]
    assert len({line.count("|") for line in lines}) == 1
    assert "| **SFR-on** | 89.9 (+2.7) |" in text
    assert "| **Retrain** | 87.2 |" in text
    assert "| *noise floor* | 0.3 |" in text


def test_runs_merge_by_request(run, tmp_path):
    other = reports.read(write(tmp_path / "other", seeds=(0, 1, 2)))
    text = reports.markdown([run, other])
    assert text.count("**10 % random rows") == 1
    assert "demo: SFR-on" in text
    assert "other: SFR-on" in text
    assert "1/3 seeds" in text


def test_a_metric_that_no_method_has_is_no_column(run):
    whole = json.loads((run.path / "result.json").read_text())
    for method in whole["requests"][0]["methods"]:
        method["values"]["KL"] = None
    text = reports.markdown([run._replace(result=whole)])
    first, second = text.split("the whole class 3")
    assert "KL nats" not in first
    assert "KL nats" in second


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return reports.Run(tmp_path_factory.mktemp("bench"), benchmark(), [{}, {}])


def test_a_benchmark_is_told_by_its_headline_unless_all_is_asked_for(bench):
    head, full = reports.markdown([bench]), reports.markdown([bench], full=True)
    columns = lambda text: next(line for line in text.splitlines() if line.startswith("| method")).split(" | ")
    assert len(columns(head)) == 1 + 6 + 2
    assert len(columns(full)) == 1 + 15 + 1  # run time is a metric here, so it is no column of its own
    assert "ZRF" not in _printed([bench], 120)
    console = Console(width=400, file=io.StringIO())
    for table in reports.tables([bench], 400, full=True):
        console.print(table)
    assert "ZRF" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_collapse_and_chance_are_marked_in_the_terminal(bench, width):
    text = _printed([bench], width)
    assert "…" not in text
    tables = sum(line.startswith("method") for line in text.splitlines())
    assert text.count("collapsed") == 3 * tables  # three methods in each
    assert "(+7.9)*" in text
    assert "(−0.1)*" not in text
    assert "*: larger than retraining varies" in " ".join(text.split())


def test_a_table_too_wide_for_the_terminal_goes_on_below(bench):
    console = Console(width=60, file=io.StringIO())
    for table in reports.tables([bench], 60, full=True):
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    heads = [word for line in lines if line.startswith("method") for word in line.split()]
    assert heads.count("method") > 2
    for number in ("(−31.1)*", "(−87.1)*", "±0.014*", "collapsed"):
        assert any(number in line for line in lines)


def test_collapse_and_chance_are_marked_in_markdown(bench):
    text = reports.markdown([bench])
    assert "| Gradient ascent, collapsed | 70.6±0.2 (−16.7)\\* |" in text
    assert "- SFR-on: FA, RA differ from retraining by more than retraining varies; TA, MIA, AvgD, KL do not." in text
    assert "| *noise floor (20 networks)* | 0.7 |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_an_old_result_has_no_marks_it_did_not_ask_for(run):
    text = reports.markdown([run])
    assert r"\*" not in text
    assert "collapsed" not in text.lower()


def test_a_warning_alone_tells_of_collapse():
    whole = benchmark()
    for method in whole["requests"][0]["methods"]:
        method.pop("collapsed", None)
    text = reports.markdown([reports.Run(pathlib.Path("x"), whole, [{}, {}])])
    assert "| Fisher forgetting, collapsed |" in text
