"""Charts of counts, against counts by hand."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from avatar_bench.audit.count_charts import draw_counts
from avatar_bench.metrics import plots

ROWS = [
    *[("real", "studio", "train")] * 5,
    *[("real", "street", "test")] * 2,
    *[("drawing", "pen", "train")] * 3,
    *[("drawing", "", "val")] * 1,
    *[("bread", "kitchen", "out of domain")] * 4,
]
IMAGES = pd.DataFrame(ROWS, columns=["label", "source", "split"])
SPLITS = ["train", "val", "test", "out of domain"]


def bars(axes: Axes) -> dict[str, dict[str, float]]:
    """Return the lengths of the bars by row and colour."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for patch in axes.patches:
        row = round(patch.get_y() + patch.get_height() / 2)
        if patch.get_width():
            found[names[row]][to_hex(patch.get_facecolor()).upper()] = patch.get_width()
    return found


def test_every_image_is_counted_in_each_panel_in_the_colour_of_its_class() -> None:
    by_class, by_split, by_source = draw_counts(IMAGES, SPLITS).axes
    drawing, real, bread = plots.PALETTE[:3]  # what training lacks comes last
    assert bars(by_class) == {"drawing": {drawing: 4}, "real": {real: 7}, "bread": {bread: 4}}
    assert bars(by_split) == {
        "train": {drawing: 3, real: 5},
        "val": {drawing: 1},
        "test": {real: 2},
        "out of domain": {bread: 4},
    }
    assert bars(by_source) == {
        "pen": {drawing: 3},
        "not known": {drawing: 1},
        "studio": {real: 5},
        "street": {real: 2},
        "kitchen": {bread: 4},
    }


def test_each_bar_ends_with_its_number_inside_the_axes() -> None:
    for axes in draw_counts(IMAGES, SPLITS).axes:
        totals = [sum(parts.values()) for parts in bars(axes).values()]
        assert [float(text.get_text()) for text in axes.texts] == totals
        assert axes.get_xlim()[1] > 1.1 * max(totals)


def test_of_many_sources_the_largest_forty_are_drawn() -> None:
    rows = [("real", f"s{number:02}", "train") for number in range(50) for _ in range(number + 1)]
    axes = draw_counts(pd.DataFrame(rows, columns=["label", "source", "split"]), ["train"]).axes[-1]
    assert list(bars(axes)) == [f"s{number:02}" for number in range(49, 9, -1)]


def test_without_a_known_source_there_is_no_panel_of_sources() -> None:
    assert len(draw_counts(IMAGES.assign(source=""), SPLITS).axes) == 2
