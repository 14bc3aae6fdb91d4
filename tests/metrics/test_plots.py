"""Tests that the shared figures draw whole, with long and foreign names, at every size."""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from avatar_bench.metrics import plots

NAMES = ["рисунок", "γενικό", "$5_real_$", *(f"a class name that goes on and on {i}" for i in range(9))]


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


@pytest.mark.parametrize("count", [1, 3, 11])
def test_a_gallery_takes_images_of_any_shape(count, inside):
    generator = np.random.default_rng(0)
    shapes = generator.integers(2, 900, (count, 2))
    images = [np.zeros((height, width, 3), np.uint8) for height, width in shapes]
    figure = plots.draw_gallery(images, ["true: " + NAMES[5] + "\npredicted: " + NAMES[0] + "\nsource"] * count)
    assert sum(bool(axes.images) for axes in figure.axes) == count
    assert max(max(axes.images[0].get_size()) for axes in figure.axes if axes.images) <= 360
    assert inside(figure)


def table(stages):
    n = len(stages)
    values = {"train/loss": 1.0, "val/loss": 1.2, "train/accuracy": 0.6, "val/accuracy": 0.5}
    values |= {"train/macro_f1": 0.45, "val/macro_f1": 0.4, "lr": 1e-3}
    epochs = range(1, n + 1)
    return pd.DataFrame({"epoch": epochs, "stage": stages, **{name: [value] * n for name, value in values.items()}})


def upright(axes):
    """Return where each vertical line stands, and its style."""
    lines = [line for line in axes.lines if list(line.get_ydata()) == [0, 1] and len(set(line.get_xdata())) == 1]
    return [(line.get_xdata()[0], line.get_linestyle()) for line in lines]


def test_curves_mark_where_a_stage_begins_and_the_best_epoch(inside):
    figure = plots.draw_training_curves(table([1, 1, 2, 2, 2]), best=4)
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["stage 2"]
        assert upright(axes) == [(2.5, "-"), (4, ":")]
    assert "best epoch (4)" in texts(figure)
    assert inside(figure)
    later = table([2, 2]).assign(epoch=[7, 8])  # goes on from another run: the epoch is marked, not the row
    assert upright(plots.draw_training_curves(later, best=8).axes[0]) == [(2, ":")]
    for rows in (0, 1):
        assert inside(plots.draw_training_curves(table([1] * rows)))


def test_figures_are_fit_for_print_leave_the_settings_alone_and_draw_train_dashed():
    before = dict(mpl.rcParams)
    assert plots.draw_gallery([np.zeros((2, 2, 3), np.uint8)], ["a"]).get_dpi() == 300
    assert dict(mpl.rcParams) == before
    measured = table([1, 1, 1])
    measured.loc[1, "val/loss"] = np.nan
    left, right = plots.draw_training_curves(measured, best=1).axes[:2]
    assert [list(line.get_xdata()) for line in left.lines[:2]] == [[1, 2, 3], [1, 3]]
    drawn = {line.get_label(): (line.get_linestyle(), line.get_color(), line.get_ydata()[0]) for line in right.lines}
    expected = {"train/accuracy": ("--", 0.6), "val/accuracy": ("-", 0.5)}
    expected |= {"train/macro_f1": ("--", 0.45), "val/macro_f1": ("-", 0.4)}
    assert {name: drawn[name][::2] for name in drawn if "/" in name} == expected
    assert drawn["train/accuracy"][1] == drawn["val/accuracy"][1] != drawn["val/macro_f1"][1]


SEEDS = [f"mobilenetv3_small few_shot {shots} shots · seed {seed}" for shots in (10, 30) for seed in (1, 2, 3)]
RECIPES = [f"a long name of an experiment with {which} in its middle and a long end" for which in ("alpha", "beta")]


@pytest.mark.parametrize("names", [SEEDS, [*SEEDS, "resnet18 full · seed 1"], RECIPES, ["a" * n for n in (40, 41, 42)]])
@pytest.mark.parametrize("width", [12, 18, 24, 34, 60])
def test_names_shortened_together_fit_and_stay_distinct(names, width):
    labels = plots.shorten_names(names, width)
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) <= width


def test_names_that_differ_in_the_middle_keep_what_differs_and_names_that_fit_are_not_shortened():
    assert [label.split()[0] for label in plots.shorten_names(RECIPES, 24)] == ["…alpha", "…beta"]
    ends = ("10 shots · seed 1", "30 shots · seed 3")
    assert all(label.endswith(ends) for label in plots.shorten_names(SEEDS, 26)[::5])
    assert plots.shorten_names(["a", "b" * 24, "a"]) == ["a", "b" * 24, "a"]
    assert plots.shorten_names([]) == []
    for name in ("short", "x" * 24, "begin" + "x" * 60 + "end"):  # a name alone keeps both ends
        shortened = plots.shorten_name(name, 24)
        assert (len(shortened), shortened[:5], shortened[-3:]) == (min(len(name), 24), name[:5], name[-3:])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.74, 0.84), (0.7, 0.95), (0.001, 0.012), (-0.05, 0.05)])
@pytest.mark.parametrize("width", [2, 6])
def test_the_ticks_of_an_axis_in_percent_are_as_far_apart_as_they_say(low, high, width):
    figure = plots.create_figure(width, 2)
    axes = figure.subplots()
    axes.set_xlim(low, high)
    plots.format_percent_axis(axes.xaxis)
    figure.savefig(io.BytesIO(), format="png")
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    said = [axes.xaxis.get_major_formatter()(tick) for tick in shown]
    assert [float(text.removesuffix("%")) / 100 for text in said] == pytest.approx(shown, abs=1e-12)
    assert len(said) >= 2
    step = (shown[1] - shown[0]) / 10 ** np.floor(np.log10(shown[1] - shown[0]) + 1e-9)
    assert round(step, 6) in (1, 2, 5)
    assert "-0%" not in said
