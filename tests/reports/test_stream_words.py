"""What a report says of a stream of requests: verdict, table, page."""

import re

import pytest
import stream_sample as sample
from sample import result
from test_html import _parsed

from clujax import reports
from clujax.reports import compare, results, wording
from clujax.reports.verdict import verdict


def _request(**kwargs):
    return sample.run(**kwargs)[0]["requests"][0]


def _said(request):
    return " ".join(verdict(request)).replace("\u00a0", " ")


@pytest.fixture
def request_():
    return _request()


def test_the_verdict_begins_with_the_distance_beside_the_noise(request_):
    ours = results.method(request_, "ug_clu")
    ours["values"]["AvgD"], request_["noise_floor"]["AvgD"] = 3.2, 0.8
    words = _said(request_)
    assert words.startswith("On average over the requests UG-CLU ends 3.2 points from the oracle")
    assert "two oracles differ by 0.8." in words
    ours["values"]["AvgD"] = 0.7
    assert "two oracles differ by 0.8, so it is no further than retraining itself varies." in _said(request_)


@pytest.mark.parametrize(
    ("relapse", "sentence"),
    [
        (
            14.0,
            "Rows forgotten earlier did not come back: UG-CLU classifies 14.0 % of them correctly, the oracle 12.0 % (+2.0)",
        ),
        (
            40.0,
            "Rows forgotten earlier came back in part: UG-CLU classifies 40.0 % of them correctly, the oracle 12.0 % (+28.0)",
        ),
        (2.0, "Rows forgotten earlier did not come back, but stand out as forgotten"),
    ],
)
def test_rows_came_back_where_the_relapse_exceeds_the_oracles_by_more_than_chance(request_, relapse, sentence):
    results.method(request_, "oracle")["values"]["Relapse"] = 12.0
    ours = results.method(request_, "ug_clu")
    ours["values"]["Relapse"], ours["gap"]["Relapse"] = relapse, abs(relapse - 12.0)
    request_["noise_floor"]["Relapse"] = 1.0
    assert sentence in _said(request_)
    request_["noise_floor"] = None
    words = _said(request_)
    assert f"Rows forgotten earlier: UG-CLU classifies {relapse:.1f} % of them correctly, the oracle 12.0 %" in words
    assert "come back" not in words
    assert "came back" not in words


def test_divergences_are_told_beside_those_of_two_oracles(request_):
    results.method(request_, "ug_clu")["values"] |= {"KL_forget": 0.153, "KL_kept": 0.042}
    request_["noise_floor"] |= {"KL_forget": 0.05, "KL_kept": 0.012}
    words = _said(request_)
    assert "is 0.15 nat on forgotten rows and 0.042 nat on kept rows (two oracles: 0.050 and 0.012)" in words.replace(
        "0.05 and", "0.050 and"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1.2, "A request takes it 1.2 s, 29 times faster than retraining (34.5 s)."),
        (10.0, "A request takes it 10.0 s, 3.5 times faster than retraining (34.5 s)."),
        (34.5, "A request takes it 34.5 s, as long as retraining (34.5 s)."),
        (69.0, "A request takes it 69.0 s, 2.0 times slower than retraining (34.5 s)."),
    ],
)
def test_a_request_is_timed_beside_retraining(request_, seconds, words):
    results.method(request_, "ug_clu")["values"]["seconds"] = seconds
    results.method(request_, "oracle")["values"]["seconds"] = 34.5
    assert words in _said(request_)


def test_methods_within_noise_and_collapsed_ones_are_named(request_):
    request_["noise_floor"]["AvgD"] = results.method(request_, "ug_clu")["values"]["AvgD"] + 0.01
    words = _said(request_)
    assert "Of 18 methods, 1 ends on average within the noise of retraining: UG-CLU." in words
    assert "destroyed what should be kept: Finetune." in words


def test_a_second_oracle_is_no_rival(request_):
    assert "oracle_again" not in [each["key"] for each in compare.rivals(request_)]
    assert results.focus(request_ | {"focus": None, "methods": request_["methods"][:3]})["key"] == "finetune"


def test_numbers_that_are_missing_are_not_told_of(request_):
    for method in request_["methods"]:
        for key in ("Relapse", "KL_forget", "KL_kept", "seconds"):
            method["values"].pop(key)
    words = _said(request_)
    assert "earlier" not in words
    assert "KL" not in words
    assert "faster" not in words
    results.method(request_, "ug_clu").update(values={}, gap=None)
    assert _said(request_).startswith("UG-CLU did not finish the stream.")


def test_a_stream_without_any_other_method_says_so(request_):
    request_["methods"] = request_["methods"][:2]
    request_["focus"] = None
    assert verdict(request_) == ["This run compares no method with the oracle."]


def test_no_sentence_of_a_stream_speaks_of_a_retrained_model(request_):
    assert "retrained model" not in _said(request_)
    assert "model retrained" not in _said(request_)


def test_a_single_request_is_told_of_as_before():
    request = result()["requests"][0]
    assert wording.of(request) == wording.REQUEST
    assert "a model retrained from scratch" in _said(request)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return reports.read(sample.write(tmp_path_factory.mktemp("streams") / "demo"))


def test_the_table_says_how_long_the_stream_is_and_what_its_numbers_are(run):
    text = reports.markdown([run])
    assert text.startswith(
        "**Categories across tasks, 5 requests, 5,000 rows learned, 1,000 forgotten, 2,000 test rows, 3 seeds**"
    )
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    keys = [cell.split()[0] for cell in head.strip("| ").split(" | ")]
    assert keys == [
        "method",
        "FA",
        "RA",
        "LA",
        "TA",
        "MIA",
        "Relapse",
        "KL_forget",
        "KL_kept",
        "AvgD",
        "time",
        "Forgetting",
    ]
    assert "FA % → oracle" in head
    assert "AvgD % ↓ 0" in head
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "Means over the requests after the first" in text
    assert "distance between two oracles" in text
    assert "retrained" not in text


def test_a_table_without_a_second_oracle_explains_no_noise_floor(tmp_path):
    text = reports.markdown([reports.read(sample.write(tmp_path / "few", rivals=sample.FEW, seeds=(0,)))])
    assert "noise floor" not in text.lower()
    assert "±" not in text


@pytest.fixture(scope="module")
def page(run):
    return reports.build(run).read_text()


def test_the_page_has_the_pictures_under_their_headings(run, page):
    parsed = _parsed(page)
    heads = re.findall(r"<h3>([^<]*)</h3>", page)
    assert heads == ["After every request", "Over the whole stream"]
    names = [path.stem.removeprefix("0_") for path in (run.path / "figures").glob("*.png")]
    assert {"stream_groups", "stream_distance", "stream_classes", "stream_time", "heatmap", "tradeoff"} == set(names)
    first, second = page.split("<h3>Over the whole stream</h3>")
    assert first.count("<img") == 4
    assert len(parsed.images) == 6
    assert "should lie on the black line, the oracle" in first
    assert "mean over the requests" in second


def test_the_page_lists_the_requests_and_how_their_words_are_read(page):
    assert "<li><b>L3+U{0,2}</b>: learns 1,000 rows and forgets 500 rows</li>" in page
    assert "U2 forgets what is left of task 2" in page
    assert "5 requests, 5,000 rows learned, 1,000 forgotten, 2,000 test rows." in page
    assert "the closer to the oracle, the better" in page
    assert "retrained model" not in page


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"learn": 1200, "forget": 0}, "learns 1,200 rows"),
        ({"learn": 0, "forget": 1}, "forgets 1 row"),
        ({"learn": 2, "forget": 3}, "learns 2 rows and forgets 3 rows"),
        ({}, "asks for nothing"),
    ],
)
def test_requests_are_put_in_words(entry, words):
    assert wording.asked(entry) == words


def test_a_leaderboard_ranks_streams_with_the_oracles_beside(run, tmp_path):
    text = reports.leaderboard([run], tmp_path / "board.md").read_text()
    assert "| – | Oracle again |" in text
    assert "| 1 | UG-CLU |" in text


def test_a_failed_method_has_dashes_in_the_table(run, tmp_path):
    whole = sample.run()[0]
    failed = results.method(whole["requests"][0], "replay")
    failed.update(values={}, std=None, gap=None, run_seconds=None, collapsed=True, warnings=["Collapsed: request 3"])
    text = reports.markdown([run._replace(result=whole)])
    assert "| ER, collapsed | – |" in text
