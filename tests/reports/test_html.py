import html
import html.parser
import re

import pytest
from sample import result, write

from clujax import reports
from clujax.reports.html import verdict


class _Balance(html.parser.HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parsed(text):
    parser = _Balance()
    parser.feed(text)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def text(run):
    return reports.build(run).read_text()


def test_report_is_self_contained(text, run):
    parsed = _parsed(text)
    assert not parsed.seen & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert len(parsed.images) == 12
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in parsed.images)
    assert '<meta name="viewport" content="width=device-width' in text
    assert len(list((run.path / "figures").glob("*.png"))) == 12
    assert not list(run.path.rglob("*.part"))


def test_report_begins_with_the_verdict_and_explains_each_metric(text):
    assert text.index("the attack takes 70.1\u00a0%") < text.index("<table>")
    for metric in result()["requests"][0]["metrics"]:
        assert html.escape(metric["explain"]) in text
    assert "noise floor" in text
    assert "clujax run configs/unlearning/demo.py" in text


def test_page_stands_without_the_optional_parts(tmp_path):
    bare = {
        "title": "bare <b>&",
        "requests": [
            {
                "name": "one",
                "reference": "retrain",
                "metrics": [],
                "methods": [{"key": "retrain", "label": "Retrain", "values": {}}],
            }
        ],
    }
    text = reports.page(reports.Run(tmp_path, bare, [{}]), [{}])
    parsed = _parsed(text)
    assert not parsed.images
    assert "bare &lt;b&gt;&amp;" in text


def test_building_twice_gives_the_same_page(run, text):
    assert reports.build(run.path).read_text() == text


def test_verdict_states_values_and_the_noise_floor():
    request = result()["requests"][0]
    words = " ".join(verdict(request)).replace("\u00a0", " ")
    assert "70.1 %" in words
    assert "71.1 %" in words
    assert "77.7 %" in words
    assert "two retrained models differ by 0.4." in words
    request["noise_floor"]["AvgD"] = 2.0
    assert "no further than retraining itself varies" in " ".join(verdict(request))


def test_verdict_without_retrained_numbers_stays_silent_about_them():
    request = result()["requests"][0]
    request["focus"] = "salun"
    request["methods"][1]["values"].pop("MIA")
    words = " ".join(verdict(request))
    assert "attack" not in words
    assert "94.0" in words


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    run = reports.read(write(tmp_path / "run", rows=1))
    reports.build(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    run.result["title"] = "changed"

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        reports.build(run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_values_that_are_not_finite_do_not_break_the_page(tmp_path):
    whole = result()
    whole["requests"][0]["methods"][4]["values"]["KL"] = float("nan")
    whole["requests"][0]["methods"][4]["gap"]["KL"] = float("inf")
    run = reports.Run(tmp_path, whole, [{}, {}])
    text = reports.build(run).read_text()
    assert "<td>–</td>" in text
    assert text.count("<figure>") == 2
