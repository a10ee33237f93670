import html
import html.parser
import re

import pytest
from sample import benchmark, benchmark_evidence, result, write, write_run

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
    assert len(parsed.images) == 16
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in parsed.images)
    assert '<meta name="viewport" content="width=device-width' in text
    assert len(list((run.path / "figures").glob("*.png"))) == 16
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
    assert text.count("<figure>") == 6


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    whole = benchmark()
    whole["requests"] = whole["requests"][:1]
    run = reports.read(write_run(tmp_path_factory.mktemp("many") / "bench", whole, [benchmark_evidence()]))
    return reports.build(run).read_text()


def test_a_benchmark_shows_the_headline_first_and_all_metrics_folded(compared):
    parsed = _parsed(compared)
    assert len(parsed.images) == 9
    headline, folded = compared.split("<summary>All 16 columns</summary>")
    assert "<th>KL nats" in headline
    assert "<th>ZRF" not in headline
    assert "<th>ZRF" in folded
    assert "What an attack learns" in folded  # metrics are explained group by group


def test_a_benchmark_marks_collapse_chance_and_intervals(compared):
    assert 'Gradient ascent <span class="tag">collapsed</span>' in compared
    assert 'Finetune <span class="tag">' not in compared
    assert "<small><b>(+7.9)*</b></small><small>[+7.5, +8.3]</small>" in compared  # Finetune's FA
    assert "<small>(−0.1)</small>" in compared  # Original's RA: within chance
    assert "SFR-on: FA, RA differ from retraining by more than retraining varies; TA, MIA, AvgD, KL do not." in compared
    assert "noise floor (20 networks)" in compared


def test_only_wide_figures_take_the_whole_page(compared):
    wide = re.findall(r'<figure class="wide"><div><img style="min-width:4[89]rem" alt="([^"]{20})', compared)
    assert [alt[:13] for alt in wide] == ["How far each ", "What a method"]


def test_labels_and_settings_are_escaped(tmp_path):
    whole = benchmark()
    whole["requests"] = whole["requests"][:1]
    method = whole["requests"][0]["methods"][4]
    method["label"], method["settings"], method["warnings"] = "<i>GA", {"<b>": "</td>"}, ["<script>"]
    whole["requests"][0]["metrics"][0]["group"] = "<u>"
    text = reports.page(reports.Run(tmp_path, whole, [{}]), [{}])
    _parsed(text)
    for tag in ("<i>", "<b>:", "<script>", "<u>"):
        assert tag not in text
    assert "&lt;i&gt;GA" in text


def test_verdict_speaks_of_the_whole_comparison():
    words = " ".join(verdict(benchmark()["requests"][0]))
    assert (
        "Of 24 methods, 1 ends on average within the noise of retraining: SFR-on; in every headline metric: none"
        in words
    )
    assert "Collapsed, that is, destroyed what should be kept: Boundary shrink, Gradient ascent and Fisher" in words
    more, fewer = words.split("takes more of them")[1].split("These give them away by forgetting too much")
    assert "SSD (+6.1), CF-k (+5.3)" in more
    assert "Gradient ascent" not in more  # collapsed: told already
    assert "l1-sparse" not in more  # +1.2: within chance
    assert "Bad teacher (−39.5), Random label (−31.1)" in fewer
    assert "and 5 more" in fewer


def test_verdict_of_methods_that_all_match_gives_nobody_away():
    request = benchmark()["requests"][0]
    for method in request["methods"]:
        method |= {"larger_than_noise": [], "collapsed": False, "warnings": []}
    words = " ".join(verdict(request))
    assert "Of 24 methods, 24 end on average within the noise of retraining" in words
    assert "No attack tells any method from retraining" in words
    assert "ollapsed" not in words


def test_verdict_without_any_noise_claims_nothing_about_chance():
    request = benchmark()["requests"][0]
    request["noise_floor"] = None
    for method in request["methods"]:
        method.pop("larger_than_noise", None)
    words = " ".join(verdict(request))
    assert "noise" not in words
    assert "give" not in words
