"""Pictures of streams of requests: few methods and many, few requests and many, and what may be missing."""

import itertools

import numpy as np
import pytest
import stream_sample as sample
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from sample import evidence, result

from clujax.reports import figures, results
from clujax.reports.figures import curves, look
from clujax.reports.figures.stream import _ticks

pytestmark = pytest.mark.filterwarnings("error")
NAMES = ("stream_groups", "stream_distance", "stream_classes", "stream_time")
CASES = {
    "three methods, two requests, one seed": {"words": sample.SHORT, "rivals": sample.FEW, "seeds": (0,)},
    "three methods, twelve requests": {"words": sample.LONG, "rivals": sample.FEW},
    "twenty methods, two requests": {"words": sample.SHORT},
    "twenty methods, twelve requests": {"words": sample.LONG},
}


DRAW = dict(zip(NAMES, (figures.stream_groups, figures.stream_distance, figures.stream_classes, figures.stream_time)))


def _drawn(names=NAMES, **kwargs):
    whole, arrays = sample.run(**kwargs)
    request = whole["requests"][0]
    return request, arrays, {name: DRAW[name](request, arrays, seeds=len(whole["seeds"])) for name in names}


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    drawn = _drawn(**CASES[request.param])[2]
    return {name: (figure, _canvas(figure)) for name, figure in drawn.items()}


@pytest.fixture(scope="module")
def category():
    return _drawn()


def _canvas(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _line(axes, color, width):
    return next(line for line in axes.get_lines() if line.get_color() == color and line.get_lw() == width)


def test_every_picture_stays_inside_its_frame_and_can_be_read_on_a_phone(case):
    for figure, renderer in case.values():
        width = figure.get_size_inches()[0]
        box = figure.get_tightbbox(renderer)
        assert min(box.x0, box.y0) > -0.02
        assert (box.x1, box.y1) < (width + 0.02, figure.get_size_inches()[1] + 0.02)
        shown = 768 if width > figures.WIDTH else 390  # CSS px on a phone: wide figures scroll at 48 rem
        texts = [
            text for axes in figure.axes for text in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
        ]
        assert min(text.get_fontsize() for text in texts) / 72 / width * shown >= 9
        for axes in figure.axes:
            assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_names_at_the_ends_of_lines_do_not_cover_each_other(case):
    for name in NAMES[:2]:
        figure, renderer = case[name]
        for axes in figure.axes:
            ends = [Text.get_window_extent(text, renderer) for text in axes.texts]  # without their leaders
            assert not [pair for pair in itertools.combinations(ends, 2) if pair[0].overlaps(pair[1])]
            assert len(ends) <= 4


def test_words_of_the_requests_do_not_run_into_each_other(case):
    for name in NAMES[:3]:
        figure, renderer = case[name]
        for axes in figure.axes:
            labels = [text for text in axes.get_xticklabels() if text.get_text() and not text.get_rotation()]
            boxes = [text.get_window_extent(renderer) for text in labels]
            assert not [pair for pair in itertools.pairwise(boxes) if pair[0].overlaps(pair[1])]


def test_the_number_of_seeds_is_stated():
    titles = lambda seeds: [figure.get_suptitle() for figure in _drawn(rivals=sample.FEW, seeds=seeds)[2].values()]
    assert all("(1 seed)" in title for title in titles((0,)))
    assert all("(mean of 3 seeds)" in title for title in titles((0, 1, 2)))


def test_groups_show_the_oracle_in_black_and_the_method_in_colour_where_they_are(category):
    _, arrays, drawn = category
    panels = {axes.get_title("left"): axes for axes in drawn["stream_groups"].axes}
    models = list(arrays["stream_models"])
    for title, key in (("kept rows (RA)", "RA"), ("rows never seen (test, TA)", "TA")):
        for line, name in (
            (_line(panels[title], look.INK, 2.6), "oracle"),
            (_line(panels[title], curves.FOCUS, 2.0), "ug_clu"),
        ):
            row = arrays[f"stream_{key}"][models.index(name)]
            when = np.flatnonzero(np.isfinite(row))
            np.testing.assert_allclose(line.get_xydata(), np.stack([when, row[when]], 1))


def test_a_band_is_one_standard_deviation_wide(category):
    _, arrays, drawn = category
    panel = next(axes for axes in drawn["stream_groups"].axes if "(RA)" in axes.get_title("left"))
    m = list(arrays["stream_models"]).index("ug_clu")
    blue = next(
        band for band in panel.collections if np.allclose(band.get_facecolor()[0][:3], (0, 0x72 / 255, 0xB2 / 255))
    )
    low, high = blue.get_paths()[0].get_extents().get_points()[:, 1]
    mean, std = arrays["stream_RA"][m, 1:], arrays["stream_RA_std"][m, 1:]
    assert low == pytest.approx((mean - std).min())
    assert high == pytest.approx((mean + std).max())


def test_one_seed_has_no_band():
    drawn = _drawn(NAMES[:1], rivals=sample.FEW, seeds=(0,))[2]
    assert not any(axes.collections for axes in drawn["stream_groups"].axes)
    key = [text.get_text() for text in drawn["stream_groups"].axes[-1].get_legend().get_texts()]
    assert not any("deviation" in text for text in key)


def test_a_stream_that_forgets_nothing_has_no_panels_of_forgotten_rows():
    drawn = _drawn(NAMES[:2], words=sample.SHORT)[2]
    titles = " ".join(axes.get_title("left") for axes in drawn["stream_groups"].axes)
    assert "kept" in titles
    assert "forgotten" not in titles
    assert len(drawn["stream_distance"].axes) == 2
    key = [text.get_text() for text in drawn["stream_groups"].axes[-1].get_legend().get_texts()]
    assert not any("forgets" in text for text in key)


def test_the_key_has_a_few_entries_however_many_methods_there_are(category):
    key = [text.get_text() for text in category[2]["stream_groups"].axes[-1].get_legend().get_texts()]
    assert len(key) <= 8
    assert "Oracle: retrained after every request" in key
    assert "17 other methods; the three furthest off are named" in key


def test_an_even_number_of_panels_has_its_key_below():
    whole, arrays = sample.run()
    arrays.pop("stream_LA")
    figure = figures.stream_groups(whole["requests"][0], arrays)
    assert len(figure.axes) == 4
    assert len(figure.legends) == 1


def test_requests_that_forget_are_red(category):
    labels = category[2]["stream_groups"].axes[-2].get_xticklabels()
    assert [text.get_text().replace("\n", "") for text in labels] == list(sample.CATEGORY)
    assert [text.get_color() == look.RED for text in labels] == ["U" in word for word in sample.CATEGORY]


def test_of_many_methods_the_furthest_are_named_and_of_few_all():
    rows = np.array(
        [[1.0, np.nan, 3.0], [9.0, 9.0, 9.0], [5.0, 5.0, 5.0], [0.5, 0.5, 0.5], [7.0, 7.0, 7.0], [2.0, 2, 4]]
    )
    made = [curves.Curve({"key": f"m{i}"}, "other", row, 0 * row) for i, row in enumerate(rows)]
    oracle = curves.Curve({"key": "oracle"}, "reference", np.zeros(3), np.zeros(3))
    assert curves.telling([*made, oracle], 0.0, most=2) == ["m1", "m4"]
    assert curves.telling(made, 0.0, most=2, nearest=1) == ["m1", "m4", "m3"]
    assert curves.telling(made, np.full(3, 8.0), most=1) == ["m3"]
    assert set(curves.telling(made[:3], 0.0)) == {"m0", "m1", "m2"}
    assert curves.telling([], 0.0) == []
    alike = [curve._replace(values=0 * curve.values) for curve in made]
    assert curves.telling([made[1], *alike], 0.0) == ["m1"]  # who agrees with the ideal is not worth a name


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.12))
def test_names_are_moved_apart_by_no_more_than_they_must(spots, step):
    wanted = np.array(spots)
    found = curves.apart(wanted, step)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(found[order]) >= step - 1e-9).all()
    assert found.min() >= -1e-9
    assert found.max() <= 1 + 1e-9
    np.testing.assert_allclose(curves.apart(found, step), found, atol=1e-9)  # what is apart stays


def test_distance_shows_the_second_oracle_as_grey_steps_and_zero_at_the_foot(category):
    _, arrays, drawn = category
    first = drawn["stream_distance"].axes[0]
    again = arrays["stream_AvgD"][list(arrays["stream_models"]).index("oracle_again")]
    heights = {round(bar.get_x() + 0.5): bar.get_height() for bar in first.patches}
    assert heights == pytest.approx({q: value for q, value in enumerate(again) if value > 0})
    assert first.get_ylim()[0] == 0
    assert first.get_yscale() == "asinh"
    assert "between two oracles" in drawn["stream_distance"].get_supxlabel()


def test_without_a_second_oracle_the_noise_floor_is_the_band_or_there_is_none():
    whole, arrays = sample.run(rivals=sample.FEW)
    request = whole["requests"][0]
    plain = figures.stream_distance(request, arrays)
    assert not plain.axes[0].patches
    assert "grey" not in plain.get_supxlabel()
    floored = figures.stream_distance(request | {"noise_floor": {"AvgD": 0.7}}, arrays)
    assert {bar.get_height() for bar in floored.axes[0].patches} == {0.7}


@given(st.floats(1e-6, 1e3), st.floats(3.0, 1e6))
def test_an_axis_has_two_to_five_numbers(low, ratio):
    found = _ticks(low, low * ratio)
    assert 2 <= len(found) <= 5 or ratio < 7  # 1, 2, 5, 10: two in every factor of seven
    assert all(low <= tick <= low * ratio for tick in found)


def test_a_divergence_of_millions_stands_at_the_border_and_leaves_room_for_the_others():
    whole, arrays = sample.run()
    models = list(arrays["stream_models"])
    arrays["stream_KL_kept"][models.index("finetune"), 2] = 2e7  # it collapsed
    figure = figures.stream_distance(whole["requests"][0], arrays)
    axes = figure.axes[2]
    top = axes.get_ylim()[1]
    sound = [m for m, method in enumerate(models) if method not in ("finetune", "oracle")]
    assert np.nanmax(arrays["stream_KL_kept"][sound]) < top < 1e4
    marks = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "^"]
    assert marks == [[[2.0, top]]]
    assert "beyond the axis" in figure.get_supxlabel()
    assert "beyond" not in figures.stream_distance(whole["requests"][0], sample.run()[1]).get_supxlabel()


def test_no_accuracy_is_marked_below_nothing_or_above_all():
    whole, arrays = sample.run(rivals=sample.FEW)
    arrays["stream_FA"] = np.where(np.isnan(arrays["stream_FA"]), np.nan, 0.2)
    arrays["stream_TA"][:] = 100.0
    for axes in figures.stream_groups(whole["requests"][0], arrays).axes[:5]:
        assert axes.get_ylim()[0] > -3
        assert axes.get_ylim()[1] < 103
        assert all(0 <= tick <= 100 for tick in axes.get_yticks())


def test_heat_maps_hold_the_values_of_the_oracle_and_of_the_method_in_focus(category):
    _, arrays, drawn = category
    left, right, *_ = drawn["stream_classes"].axes
    assert (left.get_title("left"), right.get_title("left")) == ("Oracle", "UG-CLU")
    models = list(arrays["stream_models"])
    for axes, name in ((left, "oracle"), (right, "ug_clu")):
        values = np.stack([arrays[f"stream_class/{c}"][models.index(name)] for c in range(10)])
        np.testing.assert_allclose(axes.images[0].get_array(), values)
        assert [text.get_text() for text in axes.texts] == [f"{value:.0f}" for value in values.ravel()]


def test_cells_far_from_the_oracle_are_framed():
    whole, arrays = sample.run(words=sample.LONG)
    models = list(arrays["stream_models"])
    values = np.stack([arrays[f"stream_class/{c}"] for c in range(10)])
    far = np.abs(values[:, models.index("ug_clu")] - values[:, models.index("oracle")]) > 10
    assert 0 < far.sum() < far.size
    left, right, *_ = figures.stream_classes(whole["requests"][0], arrays).axes
    frames = [patch for patch in right.patches if patch.get_edgecolor()[0] < 1]
    spots = {(round(p.get_y() + 0.42), round(p.get_x() + 0.44)) for p in frames}
    assert spots == set(map(tuple, np.argwhere(far).tolist()))
    assert not [patch for patch in left.patches if patch.get_edgecolor()[0] < 1]


def test_of_many_classes_those_that_differ_most_are_shown_by_name():
    whole, arrays = sample.run(rivals=sample.FEW)
    for c in range(10, 100):
        arrays[f"stream_class/{c}"] = np.full((3, 5), 70.0) + (c % 7) * np.array([[0], [0], [0.1]])
    arrays["stream_class/57"][2] = 10.0
    arrays["classes"] = np.array([f"kind {c}" for c in range(100)])
    axes = figures.stream_classes(whole["requests"][0], arrays).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert len(names) == 20
    assert "kind 57" in names
    assert "80 that differ less" in axes.get_ylabel()


def test_time_leaves_out_the_first_request_and_draws_the_oracle_as_a_line(category):
    request, arrays, drawn = category
    axes, models = drawn["stream_time"].axes[0], list(arrays["stream_models"])
    rows = [text.get_text().removeprefix("× ") for text in axes.get_yticklabels()]
    means = {
        line.get_ydata()[0]: line.get_xdata()[0]
        for line in axes.get_lines()
        if line.get_marker() == "D" and len(line.get_xdata())
    }
    for key in ("ug_clu", "oracle"):
        label = results.method(request, key)["label"]
        expected = arrays["stream_seconds"][models.index(key), 1:].mean()
        assert means[rows.index(label)] == pytest.approx(expected)
    dashed = next(line for line in axes.get_lines() if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == pytest.approx(arrays["stream_seconds"][models.index("oracle"), 1:].mean())
    assert list(means.values()) == sorted(means.values())
    assert axes.get_xscale() == "log"


def _failed(arrays, key, since):
    m = list(arrays["stream_models"]).index(key)
    found = {name: np.array(values) for name, values in arrays.items()}
    for values in found.values():
        if values.ndim == 2:
            values[m, since:] = np.nan
    return found


@pytest.mark.parametrize(("key", "since"), [("replay", 0), ("replay", 3), ("ug_clu", 1), ("oracle_again", 3)])
def test_a_method_that_failed_on_the_way_is_crossed_out_where_it_stopped(key, since):
    whole, arrays = sample.run(rivals=[*sample.FEW, sample.RIVALS[1]])
    request, arrays = whole["requests"][0], _failed(arrays, key, since)
    results.method(request, key).update(values={}, std=None, gap=None, run_seconds=None, collapsed=True)
    drawn = {name: draw(request, arrays) for name, draw in DRAW.items()}
    for name in ("stream_groups", "stream_distance"):
        _canvas(drawn[name])
    panel = next(axes for axes in drawn["stream_groups"].axes if "TA" in axes.get_title("left"))
    crosses = [line.get_xdata()[0] for line in panel.get_lines() if line.get_marker() == "x"]
    assert crosses == [since - 1] * (since > 0)
    name = results.method(request, key)["label"]
    assert (name in [text.get_text() for text in panel.texts]) == (since > 0)


def test_numbers_that_are_missing_everywhere_leave_their_figure_out():
    whole, arrays = sample.run(rivals=sample.FEW)
    request = whole["requests"][0]
    nothing = {key: np.full_like(v, np.nan) if v.ndim == 2 else v for key, v in arrays.items()}
    assert not [name for name in figures.draw(whole, request, nothing) if name in NAMES[:2] or name == NAMES[3]]
    assert "stream_classes" not in figures.draw(whole, request, {k: v for k, v in arrays.items() if "class/" not in k})
    unknown = arrays | {"stream_models": np.array(["x", "y", "z"])}
    assert not [name for name in figures.draw(whole, request, unknown) if name in NAMES]


def test_no_stream_no_picture_of_one():
    whole, _ = sample.run(rivals=sample.FEW)
    assert not set(figures.draw(whole, whole["requests"][0], {})) & set(NAMES)
    other = result()
    only = {key: value for key, value in evidence().items() if key.startswith(("class", "seed"))}
    assert not set(figures.draw(other, other["requests"][0], only)) & set(NAMES)


def test_the_chart_of_costs_gives_way_to_that_of_requests():
    whole, arrays = sample.run(rivals=sample.FEW)
    request = whole["requests"][0]
    assert "cost" in figures.draw(whole, request, {})
    assert "cost" not in figures.draw(whole, request, arrays)


def test_methods_keep_their_colours_from_picture_to_picture():
    request = sample.run(rivals=sample.FEW)[0]["requests"][0]
    shades = figures.colours([each["key"] for each in request["methods"]])
    assert shades["ug_clu"] == curves.FOCUS == look.role(request, results.method(request, "ug_clu"))
    assert shades["oracle"] == look.INK == look.role(request, results.method(request, "oracle"))
    assert look.role(result()["requests"][0], {"key": "retrain"}) == look.PALETTE["retrain"]


def test_a_long_list_of_classes_is_cut():
    figure = _drawn(NAMES[:1], words=("L1", "L2", "U{0,1,2,3}", "L3"), rivals=sample.FEW)[2]["stream_groups"]
    words = [text.get_text() for text in figure.axes[-2].get_xticklabels()]
    assert words == ["L1", "L2", "U{0,1,…}", "L3"]


def test_a_dollar_sign_begins_no_formula():
    whole, arrays = sample.run(rivals=sample.FEW)
    request = whole["requests"][0]
    for method in request["methods"]:
        method["label"] = f"$x_ {method['key']}"
    for draw in DRAW.values():
        _canvas(draw(request, arrays))
