"""Charts that an about.yaml declares: what is drawn of a table, and what is said of a wrong declaration."""

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from avatar_bench.config.entries import use_folders
from avatar_bench.errors import ConfigError
from avatar_bench.i18n import use_language
from avatar_bench.results.result import Metric, Result, draw_figures
from tests.evaluation.conftest import CLASSES

SOURCES = pd.DataFrame(
    {"source": ["ink", "gan", "studio"], "class": CLASSES, "accuracy": [0.5, 0.8, np.nan], "n": [9, 1, 4]}
    | {"low": [0.4, np.nan, np.nan], "high": [0.6, np.nan, np.nan]}
)
DOTS = {"chart": "dots", "table": "sources", "y": "source", "x": {"accuracy": "my accuracy (%)"}}


@pytest.fixture
def draw(tmp_path):
    """Draw the declared chart of a user's block, which has no figures.py, of some tables."""

    def draw_chart(chart, language="en", **tables):
        folder = tmp_path / "block" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("")
        about = {"title": "Mine", "figures": {"chart": "A chart"}, "charts": {"chart": chart}}
        (folder / "about.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
        (folder / "ru.yaml").write_text("my accuracy (%): доля верных (%)\n", encoding="utf-8")
        result = Result("mine", "blind", 14, CLASSES, {"accuracy": Metric(0.7, 14, 0.5, 0.9, floor=0.25)}, tables)
        with use_folders([tmp_path]), use_language(language):
            return dict(draw_figures(result)).get("chart")

    return draw_chart


def list_texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_dots_have_their_values_intervals_and_labels_and_are_left_out_without_a_value(draw):
    figure = draw(DOTS, "ru", sources=SOURCES)
    (axes,) = figure.axes
    assert [line.get_xdata()[0] for line in axes.lines] == [0.5, 0.8]
    segments = [lines.get_segments() for lines in axes.collections if isinstance(lines, LineCollection)]
    np.testing.assert_allclose(segments[0], [[[0.4, 0], [0.6, 0]]])
    figure.draw_without_rendering()
    assert all(tick.get_text().endswith("%") for tick in axes.get_xticklabels() if tick.get_text())
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ink", "gan"]  # one has no value
    assert axes.get_xlabel() == "доля верных (%)"
    assert draw(DOTS) is None
    assert draw(DOTS, sources=SOURCES.assign(accuracy=np.nan)) is None
    assert draw(DOTS | {"least": 4}, sources=SOURCES) is None


def test_bars_and_histograms_show_numbers_of_images_classes_means_and_the_level_of_guessing(draw, inside):
    bars = DOTS | {"chart": "bars", "hue": "class", "count": "n", "lines": {"guessing": "by chance"}}
    figure = draw(bars, sources=SOURCES)
    assert {"ink (n = 9)", "gan (n = 1)", "by chance", "drawing", "generated"} <= set(list_texts(figure))
    assert inside(figure)
    (level,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert level.get_xdata()[0] == pytest.approx(1 / 3)
    metrics = {"table": "metrics", "y": "metric", "x": {"value": "value (%)"}}
    for chart, table in ((DOTS | metrics, SOURCES), (DOTS, SOURCES.assign(accuracy_floor=0.25))):
        figure = draw(chart, sources=table)  # the floor is that of the metric, or a column
        assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"] == [0.25]
        assert "chance" in list_texts(figure)
    images = pd.DataFrame({"confidence": [0.5, 0.9, 0.9, 1.0, 0.6, 0.8], "group": ["right"] * 4 + ["wrong"] * 2})
    histograms = {"chart": "histograms", "table": "images", "x": {"confidence": "confidence (%)"}, "hue": "group"}
    figure = draw(histograms, images=images)
    (axes,) = figure.axes
    assert sum(patch.get_height() for patch in axes.patches) == pytest.approx(2)  # the shares of both groups
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([0.825, 0.7])
    assert {"right (n = 4)", "wrong (n = 2)"} <= set(list_texts(figure))
    assert inside(figure)


@pytest.mark.parametrize("size", [2, 12])
def test_cells_of_any_size_show_counts_and_shares_of_the_row(size, draw, inside):
    names = [*CLASSES, *(f"a class name that goes on and on {number}" for number in range(9))][:size]
    counts = np.eye(size, dtype=int) * 3
    counts[0, 1], counts[1] = 1, 0
    confusion = pd.DataFrame(counts, columns=names).assign(target=names)
    cells = {"chart": "cells", "table": "confusion", "y": "target", "x": "column", "value": {"*": "row (%)"}}
    figure = draw(cells | {"share": "row"}, confusion=confusion)
    assert {"3\n75%", "1\n25%"} <= set(list_texts(figure))
    assert {"drawing (n = 4)", "generated (n = 0)"} <= set(list_texts(figure))
    assert inside(figure)


def test_the_colours_of_an_index_follow_its_scale_and_not_the_data(draw):
    cells = {"chart": "cells", "table": "pairs", "y": "b", "x": "a", "value": {"kappa": "kappa"}}
    for values, scale in (([0.7, 0.75], (0, 1)), ([0.7, -0.1], (-1, 1)), ([14.0, 20.0], (14, 20))):
        figure = draw(cells, pairs=pd.DataFrame({"a": ["x", "x"], "b": ["y", "z"], "kappa": values}))
        assert figure.axes[0].images[0].get_clim() == pytest.approx(scale)


def test_panels_share_the_intervals_of_all_and_lines_have_bars_of_few_points_and_a_band_of_many(draw):
    rows = [("a", "near", 0.9, 0.8, 0.99), ("a", "far", 0.4, 0.3, 0.99)]
    scores = pd.DataFrame(rows, columns=["score", "set", "auroc", "auroc_low", "auroc_high"])
    panels = {"chart": "dots", "table": "scores", "y": "score", "x": {"auroc": "AUROC (%)"}, "panels": "set"}
    assert all(axes.get_xlim()[0] <= 0.3 for axes in draw(panels, scores=scores).axes)
    chart = {"chart": "lines", "table": "curve", "x": "shots", "y": {"accuracy": "accuracy (%)"}, "hue": "class"}
    for n, bands in ((3, 0), (30, 2)):
        numbers = np.linspace(0.1, 0.9, n)
        curve = pd.DataFrame({"shots": range(1, n + 1), "accuracy": numbers, "low": numbers - 0.1, "high": numbers})
        both = pd.concat([curve.assign(**{"class": name}) for name in CLASSES[:2]])
        collections = draw(chart, curve=both).axes[0].collections
        assert sum(not isinstance(part, LineCollection) for part in collections) == bands


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "charts.chart.colour is not known"),
        ({"hues": "class"}, "charts.chart.hues is not known (did you mean hue?)."),
        ({"chart": "pie"}, "charts.chart.chart is 'pie'; expected 'dots', 'bars', "),
        ({"sort": "n"}, "charts.chart.sort is 'n'; expected a valid array"),
        ({"y": 3}, "charts.chart.y is 3; expected an object"),
        ({"hue": "klass"}, "charts.chart: hue: the table sources has no column klass; did you mean class?"),
        ({"where": {"sorce": "ink"}}, "charts.chart: where: the table sources has no column sorce"),
    ],
)
def test_a_wrong_declaration_is_refused_with_file_chart_and_key(change, message, draw):
    with pytest.raises(ConfigError) as error:
        draw(DOTS | change, sources=SOURCES)
    assert message in str(error.value)
    assert "about.yaml" in error.value.lines[0]
    assert len(error.value.lines) <= 3
