import copy
import html.parser

import pytest
from sample import benchmark, result

from clujax import reports
from clujax.errors import ConfigError, RequestError
from clujax.reports.ranking import boards, overall, run_names


def _run(folder, whole=None):
    folder.mkdir(parents=True, exist_ok=True)
    return reports.Run(folder, whole or benchmark(), [{}, {}])


def _kept(whole, keys):
    whole = copy.deepcopy(whole)
    for request in whole["requests"]:
        request["methods"] = [each for each in request["methods"] if each["key"] in keys]
    return whole


def _tuned(distance):
    whole = _kept(benchmark(), ("retrain", "original", "salun", "random_label"))
    for request in whole["requests"]:
        request["methods"][-1]["values"]["AvgD"] = distance
        request["methods"][-1]["settings"] = {"learning_rate": "1e-3 | <b>"}
    return whole


def test_methods_go_by_distance_and_collapsed_ones_last(tmp_path):
    whole = benchmark()
    for request in whole["requests"]:
        near = next(each for each in request["methods"] if each["key"] == "gradient_ascent")
        near["values"]["AvgD"] = 0.1
    (board, _) = boards([_run(tmp_path / "a", whole)])
    ranked = [entry for entry in board.entries if entry.rank is not None]
    assert [entry.method["key"] for entry in ranked[-3:]] == ["gradient_ascent", "boundary_shrink", "fisher_forgetting"]
    distances = [entry.method["values"]["AvgD"] for entry in ranked[:-3]]
    assert distances == sorted(distances)
    beside = [entry.method["key"] for entry in board.entries if entry.rank is None]
    assert beside == ["retrain", "retrain_again", "original"]
    assert board.entries[0].method["key"] == "retrain"


def test_those_within_the_noise_of_the_best_are_tied(tmp_path):
    (board, _) = boards([_run(tmp_path / "a")])
    best = min(e.method["values"]["AvgD"] for e in board.entries if e.rank == 1)
    for entry in board.entries:
        if entry.rank is not None:
            near = entry.method["values"]["AvgD"] <= best + board.noise and not entry.method["collapsed"]
            assert entry.tied is near
            assert (entry.rank == 1) is near
    ranks = [entry.rank for entry in board.entries if entry.rank is not None]
    tied = sum(entry.tied for entry in board.entries)
    assert tied >= 2
    assert ranks[tied] == tied + 1


def test_without_noise_only_equal_distances_share_a_rank(tmp_path):
    whole = _kept(benchmark(), ("retrain", "finetune", "salun", "sfron"))
    for request in whole["requests"]:
        request["noise_floor"] = None
        for method, distance in zip(request["methods"][1:], (2.0, 1.0, 1.0)):
            method["values"]["AvgD"] = distance
    board = boards([_run(tmp_path / "a", whole)])[0]
    assert [(entry.rank, entry.tied) for entry in board.entries[1:]] == [(1, False), (1, False), (3, False)]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_method_without_a_finite_distance_has_no_rank(tmp_path, bad):
    whole = benchmark()
    whole["requests"][0]["methods"][3]["values"]["AvgD"] = bad
    run = _run(tmp_path / "a", whole)
    board = boards([run])[0]
    assert board.entries[-1].method["key"] == "finetune"
    assert board.entries[-1].rank is None
    finetune = next(each for each in overall(boards([run])) if each.label == "Finetune")
    assert finetune.ranks[0] is None
    assert not finetune.complete


def test_runs_merge_request_by_request(tmp_path):
    runs = [_run(tmp_path / "bench"), _run(tmp_path / "tuned", _tuned(0.2))]
    ranking = boards(runs)
    assert [board.title for board in ranking] == ["10 % random rows", "the whole class 3"]
    twice = [entry.run.path.name for entry in ranking[0].entries if entry.method["key"] == "salun"]
    assert sorted(twice) == ["bench", "tuned"]
    assert ranking[0].entries[1].method["label"] == "SalUn"  # 0.2 from retraining, after Retrain itself
    standings = overall(ranking)
    assert {"SalUn (bench)", "SalUn (tuned)", "SFR-on"} <= {each.label for each in standings}
    assert [each.mean for each in standings] == sorted(each.mean for each in standings)


def test_mean_rank_is_over_requests_and_puts_partial_rows_last(tmp_path):
    whole = benchmark()
    whole["requests"][1]["methods"] = [m for m in whole["requests"][1]["methods"] if m["key"] != "sfron"]
    standings = overall(boards([_run(tmp_path / "a", whole)]))
    assert standings[-1].label == "SFR-on"
    assert standings[-1].ranks[1] is None
    for each in standings[:-1]:
        assert each.mean == sum(each.ranks) / 2


def test_another_split_or_other_data_is_another_request(tmp_path):
    split, data = benchmark(), benchmark()
    for request in split["requests"]:
        request["split_hash"] = "ffff"
    data["source"]["sha256"] = "8" * 64
    ranking = boards([_run(tmp_path / "a"), _run(tmp_path / "b", split), _run(tmp_path / "c", data)])
    assert len(ranking) == 6


def _no_average(whole):
    whole["requests"][1]["metrics"] = [each for each in whole["requests"][1]["metrics"] if each["key"] != "AvgD"]


def _fewer_metrics(whole):
    whole["requests"][0]["metrics"] = [each for each in whole["requests"][0]["metrics"] if each["key"] != "ZRF"]


def _other_unit(whole):
    whole["requests"][0]["metrics"][5]["unit"] = "bits"


def _other_reference(whole):
    whole["requests"][0]["reference"] = "retrain_again"


def _other_training(whole):
    whole["requests"][0]["methods"][1]["values"]["MIA"] += 2.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_average, ["b", "no metric AvgD"]),
        (_fewer_metrics, ["a", "b", "different metrics (ZRF)"]),
        (_other_unit, ["a", "b", "different metrics (KL)"]),
        (_other_reference, ["a", "b", "'retrain' and 'retrain_again'"]),
        (_other_training, ["a", "b", "MIA 70.7 and 72.7"]),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_by_name(tmp_path, change, words):
    other = benchmark()
    change(other)
    with pytest.raises(RequestError) as caught:
        boards([_run(tmp_path / "a"), _run(tmp_path / "b", other)])
    for word in words:
        assert (str(tmp_path / word) if len(word) == 1 else word) in str(caught.value)


def test_a_metric_that_no_method_has_does_not_part_two_runs(tmp_path):
    other = benchmark()
    spare = other["requests"][0]["metrics"][0] | {"key": "Relearn"}
    other["requests"][0]["metrics"].append(spare)
    assert len(boards([_run(tmp_path / "a"), _run(tmp_path / "b", other)])) == 2


def test_a_reference_that_moves_within_the_noise_is_the_same(tmp_path):
    other = benchmark()
    other["requests"][0]["methods"][1]["values"]["MIA"] += 0.9 * other["requests"][0]["noise_floor"]["MIA"]
    other["requests"][0]["methods"][1]["values"]["seconds"] *= 40
    assert len(boards([_run(tmp_path / "a"), _run(tmp_path / "b", other)])) == 2


def test_a_directory_twice_is_refused(tmp_path):
    run = _run(tmp_path / "a")
    again = run._replace(path=tmp_path / "b" / ".." / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(RequestError, match="given twice"):
        boards([run, again])


def test_runs_named_alike_are_told_apart(tmp_path):
    runs = [_run(tmp_path / "x" / "bench"), _run(tmp_path / "y" / "bench"), _run(tmp_path / "x" / "tuned")]
    assert list(run_names(runs).values()) == ["x/bench", "y/bench", "tuned"]


class _Balance(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_holds_ranks_settings_commands_and_links(tmp_path):
    tuned = _tuned(9.0)
    tuned["command"] = "clujax run <x> --workdir 'y'"
    runs = [_run(tmp_path / "runs" / "bench"), _run(tmp_path / "runs" / "tuned 2", tuned)]
    text = reports.leaderboard(runs, tmp_path / "board.html").read_text()
    parser = _Balance()
    parser.feed(text)
    assert parser.open == []
    assert {"runs/bench/report.html", "runs/tuned%202/report.html"} == set(parser.links)
    assert "http" not in text
    assert "<script" not in text
    for words in (
        "learning_rate 1e-3 | &lt;b&gt;",
        "clujax run &lt;x&gt;",
        '<span class="tag aside">tied</span>',
        'Gradient ascent <span class="tag">collapsed</span>',
        "Split a1b2c3d4e5f6",
        "0.6±0.2<small>[0.2, 1.0]</small>",
        "mean rank",
    ):
        assert words in text
    assert not list(tmp_path.rglob("*.part"))


def test_markdown_page_is_made_of_whole_tables(tmp_path):
    runs = [_run(tmp_path / "bench"), _run(tmp_path / "tuned", _tuned(9.0))]
    text = reports.leaderboard(runs, tmp_path / "board.md").read_text()
    for block in text.split("\n\n"):
        rows = [line.replace(r"\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    assert "| 1 (tied) | SFR-on | 0.6±0.2 [0.2, 1.0] |" in text
    assert "Gradient ascent, collapsed" in text
    assert "- [bench](bench/report.html): Twenty-five methods: benchmark, `clujax run" in text


def test_one_run_of_one_request_needs_no_overall_table(tmp_path):
    whole = result()
    whole["requests"] = whole["requests"][:1]
    text = reports.leaderboard([_run(tmp_path / "a", whole)], tmp_path / "board.md").read_text()
    assert "Over all requests" not in text
    assert "| 1 | SFR-on | 1.2 |" in text


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    run = _run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"\.html or \.md"):
        reports.leaderboard([run], tmp_path / "board.txt")
    with pytest.raises(ConfigError, match="no directory"):
        reports.leaderboard([run], tmp_path / "none" / "board.html")


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    run, page = _run(tmp_path / "a"), tmp_path / "board.html"
    page.write_text("old")

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        reports.leaderboard([run], page)
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["board.html"]
