import io
import json

import pytest
from rich.console import Console
from sample import write

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
