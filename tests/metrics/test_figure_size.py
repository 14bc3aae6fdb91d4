"""Figures fitted to a size: no label overlaps another, and nothing shrinks more than needed."""

from itertools import pairwise

import pytest

from avatar_bench.metrics.figure_size import resize_figure
from avatar_bench.metrics.plots import create_axes


def draw(names):
    figure, axes = create_axes(7, 3)
    axes.bar(range(names), range(names))
    axes.set_xticks(range(names), [f"a name {number}" for number in range(names)])
    return figure


def list_boxes(figure):
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    return [(box.x0, box.x1) for box in boxes]


@pytest.mark.parametrize("names", [2, 8])
def test_labels_shrink_only_as_far_as_they_would_overlap(names):
    figure = draw(names)
    before = figure.axes[0].get_xticklabels()[0].get_fontsize()
    resize_figure(figure, 3.3)
    assert figure.get_figwidth() == pytest.approx(3.3)
    boxes = list_boxes(figure)
    assert all(left[1] <= right[0] + 1 for left, right in pairwise(boxes))
    shrunk = figure.axes[0].get_xticklabels()[0].get_fontsize() < before
    assert shrunk == (names > 2)


def test_a_width_and_a_height_are_kept():
    figure = draw(8)
    resize_figure(figure, (3.3, 2.0))
    assert tuple(figure.get_size_inches()) == pytest.approx((3.3, 2.0))


def test_a_larger_figure_keeps_its_text():
    figure = draw(3)
    size = figure.axes[0].get_xticklabels()[0].get_fontsize()
    resize_figure(figure, 9.0)
    assert figure.axes[0].get_xticklabels()[0].get_fontsize() == size
