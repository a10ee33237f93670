import numpy as np
import pytest
from sample import evidence, result

from clujax.reports import figures


def _drawn(seeds=(0,), index=0, **kwargs):
    whole = result(seeds)
    return figures.draw(whole, whole["requests"][index], evidence(index, **kwargs))


def _texts(figure):
    titles = [figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()]
    for axes in figure.axes:
        titles += [axes.get_title(), axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        titles += [label.get_text() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        titles += [text.get_text() for text in legend.get_texts()] if legend else []
    return " | ".join(titles)


@pytest.fixture(scope="module")
def drawn():
    return _drawn()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gaps", ["FA (points)", "KL (nats)", "shorter is better", "SFR-on", "1 seed"]),
        ("class_accuracy", ["accuracy (%)", "class", "Original", "SFR-on", "Retrain", "1 seed"]),
        (
            "membership",
            ["entropy (nats", "share of rows (%)", "forgotten", "remaining", "never seen", "70 %", "1 seed"],
        ),
        ("beliefs", ["probability", "Original", "Retrain", "1 seed"]),
        ("trajectory", ["step", "mean loss (nats)", "cosine", "forget · remain", "effective", "1 seed"]),
        ("mask", ["weights that the mask lets move (%)", "head/bias", "1 seed"]),
    ],
)
def test_every_figure_says_what_it_shows(drawn, name, words):
    figure = drawn[name]
    figure.canvas.draw()
    annotations = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    missing = [word for word in words if word not in _texts(figure) + annotations]
    assert not missing
    width, height = figure.get_size_inches() * figures.DPI
    assert 600 < width < 900
    assert 300 < height < 2600
    for axes in figure.axes:
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_number_of_seeds_is_stated():
    drawn = _drawn(seeds=(0, 1, 2))
    assert "mean of 3 seeds" in drawn["gaps"].get_suptitle()
    assert "seed 0 of 3" in drawn["membership"].get_suptitle()


def test_only_what_there_is_evidence_for_is_drawn():
    whole = result()
    only = {key: value for key, value in evidence().items() if key.startswith(("class", "seed"))}
    assert list(figures.draw(whole, whole["requests"][0], only)) == ["gaps", "tradeoff", "cost", "class_accuracy"]
    whole["requests"][0]["methods"] = whole["requests"][0]["methods"][1:2]
    assert figures.draw(whole, whole["requests"][0], {}) == {}


def test_class_figure_shows_the_values_and_leaves_out_absent_classes(drawn):
    whole_class = _drawn(index=1)["class_accuracy"]
    test_rows, forgotten = whole_class.axes
    assert [label.get_text() for label in forgotten.get_yticklabels()] == ["3"]
    shown = test_rows.get_lines()[1].get_xdata()  # SFR-on
    np.testing.assert_allclose(shown, evidence(1)["class_accuracy"][1])


def test_many_classes_are_cut_to_those_that_differ_most():
    many = evidence(0, classes=100)
    many["class_accuracy"][:, 57] = (90.0, 10.0, 5.0)
    figure = figures.class_accuracy(many, {})
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "57" in names
    assert len(names) == 30
    assert "70 classes" in figure.axes[0].get_title("left")


def test_membership_histograms_hold_every_row(drawn):
    for axes in drawn["membership"].axes:
        assert len(axes.patches) == 3
        for patch in axes.patches:
            assert np.isclose(patch.get_data().values.sum(), 100)


@pytest.mark.parametrize("scores", [np.zeros((3, 5)), np.full((3, 5), -1.0), np.linspace(-3, 3, 15).reshape(3, 5)])
def test_membership_survives_degenerate_scores(scores):
    arrays = evidence() | {f"membership_{name}": scores for name in ("forget", "remain", "test")}
    figure = figures.membership_evidence(arrays, {})
    figure.canvas.draw()
    assert np.isfinite(figure.axes[0].get_xlim()).all()


def test_colours_are_steady_and_apart():
    shades = figures.colours(["original", "mine", "sfron", "retrain", "yours"])
    assert len(set(shades.values())) == 5
    assert figures.colours(["original", "mine", "sfron", "retrain", "yours", "theirs"])["yours"] == shades["yours"]


def test_gap_dots_stand_at_the_gaps(drawn):
    first = drawn["gaps"].axes[0]
    dots = [line.get_xdata()[0] for line in first.get_lines() if line.get_marker() == "o"]
    gaps = [m["gap"]["FA"] for m in result()["requests"][0]["methods"] if m["gap"]]
    np.testing.assert_allclose(dots, np.abs(gaps))
    assert [text.get_text() for text in first.texts][:2] == ["+11.4", "−0.3"]


def test_a_collapsed_method_is_crossed_out_in_the_gap_chart():
    request = result()["requests"][0]
    request["methods"][4]["collapsed"] = True  # gradient ascent
    figure = figures.gap_chart(request)
    crosses = [line.get_ydata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert crosses == [3]
    assert figure.axes[0].get_yticklabels()[3].get_text() == "× Gradient ascent"
    assert "×: collapsed" in figure.get_supxlabel()


def test_a_distance_without_a_gap_is_read_from_its_value_and_seconds_are_not_charted():
    request = result()["requests"][0]
    request["metrics"].append({"key": "seconds", "label": "Run time", "unit": "s", "direction": "lower", "ideal": 0.0})
    for method in request["methods"]:
        method["gap"] = None
        method["values"]["seconds"] = 3.0
    titles = [axes.get_title() for axes in figures.gap_chart(request).axes if axes.get_visible()]
    assert titles == ["AvgD (points)", "KL (nats)", "JS (nats)"]


def test_rows_that_are_no_images_have_no_grid():
    whole = result()
    flat = evidence() | {"images": np.zeros((8, 20))}
    assert "beliefs" not in figures.draw(whole, whole["requests"][0], flat)


def test_a_vanished_part_has_no_angle():
    arrays = evidence()
    arrays["trajectory_cosine_forget_remain"][5:9] = 0.0
    cosines = figures.trajectory(arrays).axes[2]
    assert np.isnan(cosines.get_lines()[0].get_ydata()).sum() == 4
