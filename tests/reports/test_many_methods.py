"""The figures of a benchmark: many methods, few, and what may be missing or not finite."""

import copy
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sample import FLOOR, RIVALS, benchmark, benchmark_evidence, evidence, result

from clujax.reports import compare, figures
from clujax.reports.figures.tradeoff import _window

pytestmark = pytest.mark.filterwarnings("error")
NAMES = ("heatmap", "tradeoff", "cost", "scores")


def _scores(**kwargs):
    # The pictures of single networks have tests of their own, and take longer.
    return {key: value for key, value in benchmark_evidence(**kwargs).items() if key.startswith(("scores", "seed"))}


@pytest.fixture(scope="module")
def many():
    whole = benchmark()
    return whole["requests"][0], figures.draw(whole, whole["requests"][0], _scores())


def _drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _words(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    ticks = [text.get_text() for axes in figure.axes for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
    return " | ".join([*texts, *ticks]).replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_named_in_every_figure_and_inside_it(many, name):
    figure = many[1][name]
    renderer, words = _drawn(figure), _words(figure)
    apart = {"heatmap": ["retrain"], "cost": ["original"]}.get(name, [])
    assert [row[1] for row in RIVALS if row[0] not in apart and row[1] not in words] == []
    assert words.count("×") == 3
    _assert_inside(figure, renderer)


def _assert_inside(figure, renderer):
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02


def test_few_methods_stay_inside_a_narrow_figure():
    rivals = [row for row in RIVALS if row[0] in ("original", "retrain", "gradient_ascent", "salun", "muso", "sfron")]
    whole = benchmark(rivals=rivals)
    drawn = figures.draw(whole, whole["requests"][0], _scores(rivals=rivals))
    drawn["heatmap"] = figures.gap_heatmap(whole["requests"][0])
    assert drawn["tradeoff"].get_size_inches()[0] == figures.WIDTH
    for figure in drawn.values():
        _assert_inside(figure, _drawn(figure))


@pytest.mark.parametrize("name", NAMES)
def test_text_is_large_enough_where_the_page_shows_it(many, name):
    figure = many[1][name]
    width = figure.get_size_inches()[0]
    shown = 768 if width > figures.WIDTH else 390  # CSS px on a phone: wide figures scroll at 48 rem
    sizes = [text.get_fontsize() for axes in figure.axes for text in [*axes.texts, *axes.get_yticklabels()]]
    assert min(sizes) / 72 / width * shown >= 9


def test_many_methods_get_the_heat_map_and_few_the_chart(many):
    assert "gaps" not in many[1]
    few = result()
    drawn = figures.draw(few, few["requests"][0], {})
    assert list(drawn) == ["gaps", "tradeoff", "cost"]


def test_heat_map_rows_go_by_average_distance(many):
    request, drawn = many
    axes = drawn["heatmap"].axes[0]
    labels = [text.get_text().removeprefix("× ") for text in axes.get_yticklabels()]
    methods = [each for each in request["methods"] if each["key"] != "retrain"]
    expected = sorted(methods, key=lambda each: each["values"]["AvgD"])
    assert labels == [*(each["label"] for each in expected), "noise floor"]
    assert axes.get_xticklabels()[0].get_text() == "AvgD\npoints"


def test_heat_map_colours_are_gaps_in_noise_floors(many):
    request, drawn = many
    axes = drawn["heatmap"].axes[0]
    columns = [text.get_text().split("\n")[0] for text in axes.get_xticklabels()]
    rows = [text.get_text().removeprefix("× ") for text in axes.get_yticklabels()]
    sizes = axes.collections[0].get_array()
    salun = next(each for each in request["methods"] if each["key"] == "salun")
    y = rows.index("SalUn")
    assert sizes[y, columns.index("MIA")] == pytest.approx((70.7 - 44.9) / FLOOR["MIA"])
    assert sizes[rows.index("Fisher forgetting"), columns.index("RA")] == 63.0  # capped
    gaps = [each["gap"]["ToW"] for each in request["methods"] if each["gap"]]
    assert sizes[y, columns.index("ToW†")] == pytest.approx(salun["gap"]["ToW"] / np.median(gaps), rel=0.1)
    assert "−25.8" in _words(drawn["heatmap"])


def test_heat_map_grows_with_its_columns_and_no_number_leaves_its_cell():
    request = benchmark()["requests"][0]
    for i in range(9):
        request["metrics"].append(request["metrics"][0] | {"key": f"SVC_correct_{i}"})
        for method in request["methods"]:
            for part in ("values", "gap"):
                if method.get(part):
                    method[part][f"SVC_correct_{i}"] = method[part]["FA"]
    figure = figures.gap_heatmap(request)
    renderer, axes = _drawn(figure), figure.axes[0]
    _assert_inside(figure, renderer)
    assert figure.get_size_inches()[0] > figures.WIDE
    cell = axes.bbox.width / 23
    assert max(text.get_window_extent(renderer).width for text in axes.texts) < cell
    assert all(text.get_rotation() for text in axes.get_xticklabels())  # long heads would run into each other


def test_trade_off_names_do_not_cover_each_other_or_leave_the_axes(many):
    figure = many[1]["tradeoff"]
    renderer, axes = _drawn(figure), figure.axes[0]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == len(RIVALS)
    hit = [(a, b) for a, b in itertools.combinations(range(len(boxes)), 2) if boxes[a].overlaps(boxes[b])]
    assert hit == []
    frame = axes.bbox.padded(2)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_trade_off_keeps_the_retrained_networks_in_view_and_sets_outliers_at_the_border(many):
    request, drawn = many
    axes = drawn["tradeoff"].axes[0]
    cloud = np.array(request["noise_ellipse"]["points"])
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert ((cloud > (left, bottom)) & (cloud < (right, top))).all()
    words = _words(drawn["tradeoff"])
    assert "× Fisher forgetting (TA 11.5, MIA 88.3)" in words
    assert "Bad teacher (MIA 31.2)" in words
    assert left > 80
    ends = np.array(request["noise_ellipse"]["centre"]) + np.array(request["noise_ellipse"]["axes"])
    curve = next(line for line in axes.get_lines() if len(line.get_xdata()) == 181).get_xydata()
    assert all(np.hypot(*(curve - end).T).min() < 1e-9 for end in ends)


def test_the_window_holds_the_core_and_what_is_near():
    points = np.array([[0.0, 0], [1, 1], [2, 2], [1, 0], [100, 1]])
    low, high = _window(points, np.array([[-3.0, 0.5]]))
    assert low[0] < -3
    assert 2 < high[0] < 10
    assert high[1] > 2


def test_trade_off_needs_two_methods_with_both_metrics():
    request = result()["requests"][0]
    request["metrics"] = [each for each in request["metrics"] if each["key"] != "MIA"]
    with pytest.raises(ValueError, match="two methods with TA and MIA"):
        figures.tradeoff(request)


def test_cost_bars_end_at_the_seconds(many):
    axes = many[1]["cost"].axes[0]
    ends = [round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches if bar.get_height() == 0.42]
    assert ends == sorted(row[6] for row in RIVALS if row[6])
    assert "0.6  (0.6 %)" in _words(many[1]["cost"])


def test_score_strips_hold_the_quartiles(many):
    axes = many[1]["scores"].axes[0]
    arrays = _scores()
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows[0] == "Retrain"
    y = rows.index("SFR-on")
    scores = arrays["scores_forget"][list(arrays["scores_models"]).index("sfron")]
    bar = next(
        line for line in axes.get_lines() if np.allclose(line.get_ydata(), y + 0.3) and len(line.get_xdata()) == 2
    )
    np.testing.assert_allclose(bar.get_xdata(), np.percentile(scores, (25, 75)))


def _stripped(whole, keys):
    for request in whole["requests"]:
        for holder in (request, *request["methods"], *request["metrics"]):
            for key in keys:
                holder.pop(key, None)
    return whole


@pytest.mark.parametrize(
    "keys",
    [
        ("noise_floor", "noise_ellipse", "noise_models"),
        ("std", "interval", "larger_than_noise", "collapsed"),
        ("group", "headline"),
        ("compile_seconds", "settings", "warnings"),
        ("gap",),
    ],
)
def test_optional_keys_may_be_missing(keys):
    whole = _stripped(benchmark(), keys)
    for figure in figures.draw(whole, whole["requests"][0], _scores()).values():
        _drawn(figure)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_values_that_are_not_finite_are_drawn_around(bad):
    whole = benchmark()
    for key, method in zip(("MIA", "TA", "AvgD", "FA"), whole["requests"][0]["methods"][3:]):
        method["values"][key] = method["gap"][key] = method["std"][key] = bad
    whole["requests"][0]["methods"][6]["run_seconds"] = bad
    whole["requests"][0]["noise_floor"] = FLOOR | {"RA": bad, "TA": 0.0}
    arrays = _scores()
    arrays["scores_forget"][2, :5] = arrays["scores_forget"][3] = np.nan
    drawn = figures.draw(whole, whole["requests"][0], arrays)
    assert set(NAMES) <= set(drawn)
    for name in NAMES:
        _drawn(drawn[name])
    assert "Finetune" not in _words(drawn["scores"])
    assert "RA†" in _words(drawn["heatmap"])


def test_a_single_method_beside_retraining_is_drawn():
    whole = benchmark(rivals=RIVALS[:2] + RIVALS[-1:], seeds=(0,))
    for figure in figures.draw(whole, whole["requests"][0], _scores(rivals=RIVALS[:2])).values():
        _drawn(figure)


@pytest.mark.parametrize("scores", [np.zeros(6), np.full(6, 0.7), np.linspace(-3, 3, 6), np.linspace(1, 2, 6)])
def test_degenerate_scores_are_drawn(scores):
    request = result()["requests"][0]
    arrays = evidence() | {"scores_models": np.array(["retrain", "sfron"]), "scores_forget": np.stack([scores] * 2)}
    figure = figures.score_distributions(request, arrays)
    _drawn(figure)
    assert np.isfinite(figure.axes[0].get_xlim()).all()


def test_methods_at_one_point_are_drawn():
    request = copy.deepcopy(result()["requests"][0])
    for method in request["methods"]:
        method["values"] |= {"TA": 90.0, "MIA": 0.0}
    _drawn(figures.tradeoff(request))


def test_a_dollar_sign_begins_no_formula():
    request = result()["requests"][0]
    request["methods"][3]["label"] = "FT $x_"
    request["methods"][4]["label"] = "GA $\\frac"
    for draw in (figures.gap_heatmap, figures.tradeoff, figures.cost_chart):
        _drawn(draw(request))


def test_same_input_same_picture():
    request = benchmark()["requests"][0]
    first, second = (figures.tradeoff(request).axes[0].texts for _ in range(2))
    assert [text.get_position() for text in first] == [text.get_position() for text in second]


def test_roles_have_colours_and_names_dark_enough_to_read(many):
    request, _ = many
    for method in request["methods"]:
        shade = figures.look.ink(request, method).lstrip("#")
        red, green, blue = (int(shade[i : i + 2], 16) / 255 for i in (0, 2, 4))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        contrast = 1.05 / (np.dot((0.2126, 0.7152, 0.0722), linear) + 0.05)
        assert contrast >= 4.5
    assert compare.collapsed(next(each for each in request["methods"] if each["key"] == "gradient_ascent"))
