"""Labels that look like misspelt names of another class."""

from avatar_bench.data.label_spelling import MIN_COUNT_RATIO, find_misspelt_labels


def test_a_rare_label_one_slip_away_from_a_class_is_found_and_other_words_are_not():
    near = {"reall": "real", "rael": "real", "generatde": "generated", "real photo": "real_photo", "Reall": "real"}
    for label, other in near.items():
        assert list(find_misspelt_labels({label: 3, other: 60, "something": 60})) == [(label, other)]
    far = {"drawing": "generated", "man": "men", "art": "ai", "class1": "class2", "1": "11", "female": "male"}
    for label, other in far.items():
        assert list(find_misspelt_labels({label: 3, other: 60})) == []
    # two classes of like names and like sizes are meant
    assert list(find_misspelt_labels({"cats": 100 // MIN_COUNT_RATIO, "cat": 100})) == [("cats", "cat")]
    assert list(find_misspelt_labels({"cats": 100 // MIN_COUNT_RATIO + 1, "cat": 100})) == []
    assert list(find_misspelt_labels({"drawng": 50, "drawing": 100})) == [("drawng", "drawing")]
    assert list(find_misspelt_labels({"drawng": 51, "drawing": 100})) == []
