"""Figures fitted to a size: no label overlaps another, and nothing shrinks more than needed."""

from itertools import pairwise

import pytest

from avatar_bench.metrics.figure_size import resize_figure
from avatar_bench.metrics.plots import create_axes


@pytest.mark.parametrize(("names", "width", "is_shrunk"), [(2, 3.3, False), (8, 3.3, True), (3, 9.0, False)])
def test_labels_shrink_only_as_far_as_they_would_overlap(names, width, is_shrunk):
    figure, axes = create_axes(7, 3)
    axes.bar(range(names), range(names))
    axes.set_xticks(range(names), [f"a nam {number}" for number in range(names)])
    before = figure.axes[0].get_xticklabels()[0].get_fontsize()
    resize_figure(figure, width)
    assert figure.get_figwidth() == pytest.approx(width)
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))
    assert (labels[0].get_fontsize() < before) == is_shrunk
    resize_figure(figure, (3.3, 2.0))
    assert tuple(figure.get_size_inches()) == pytest.approx((3.3, 2.0))


def test_nothing_shrinks_more_than_the_figure():
    figure, axes = create_axes(7, 3)
    axes.plot(range(10), linewidth=2)
    axes.set_xticks(range(10), [f"a nam {number}" for number in range(10)])  # as many as fit
    before = axes.get_xticklabels()[0].get_fontsize()
    resize_figure(figure, 0.71 * 7)
    assert axes.get_xticklabels()[0].get_fontsize() == pytest.approx(0.71 * before)
    assert axes.lines[0].get_linewidth() == pytest.approx(0.71 * 2)
