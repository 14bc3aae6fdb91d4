"""Labels that look like misspelt names of another class."""

import pytest

from avatar_bench.data.label_spelling import MIN_COUNT_RATIO, find_misspelt_labels


@pytest.mark.parametrize(
    ("label", "other"),
    [("reall", "real"), ("rael", "real"), ("generatde", "generated"), ("real photo", "real_photo"), ("Reall", "real")],
)
def test_a_rare_label_one_slip_away_from_a_class_is_found(label, other):
    assert list(find_misspelt_labels({label: 3, other: 60, "something": 60})) == [(label, other)]


@pytest.mark.parametrize(
    ("label", "other"),
    [("drawing", "generated"), ("man", "men"), ("art", "ai"), ("class1", "class2"), ("1", "11"), ("female", "male")],
)
def test_other_words_and_numbers_are_not(label, other):
    assert list(find_misspelt_labels({label: 3, other: 60})) == []


def test_two_classes_of_like_names_and_like_sizes_are_meant():
    assert list(find_misspelt_labels({"cats": 100 // MIN_COUNT_RATIO, "cat": 100})) == [("cats", "cat")]
    assert list(find_misspelt_labels({"cats": 100 // MIN_COUNT_RATIO + 1, "cat": 100})) == []
    assert list(find_misspelt_labels({"drawng": 50, "drawing": 100})) == [("drawng", "drawing")]
    assert list(find_misspelt_labels({"drawng": 51, "drawing": 100})) == []
