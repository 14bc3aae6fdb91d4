"""Which sources can be held out, one at a time."""

from __future__ import annotations

import pandas as pd
import pytest

from avatar_bench.data.splits import find_hold_out_units
from avatar_bench.errors import DataError


def frame(**counts: int) -> pd.DataFrame:
    """Return the given number of rows of each label__source."""
    rows = [name.partition("__")[::2] for name, count in counts.items() for _ in range(count)]
    return pd.DataFrame(rows, columns=["label", "source"])


def test_sources_of_enough_images_are_held_out_in_order() -> None:
    table = frame(real__b=20, real__a=25, real__c=19, drawing__d=40, drawing__e=20)
    assert find_hold_out_units(table, "source", 20) == (["a", "b", "d", "e"], {"c": "19 images"})


def test_the_only_source_of_a_class_is_not() -> None:
    table = frame(real__a=30, real__b=30, drawing__d=40)
    assert find_hold_out_units(table, "source", 20) == (["a", "b"], {"d": "all of class drawing"})


def test_images_without_a_source_keep_their_class_alive() -> None:
    table = frame(real__a=30, real__b=30, drawing__d=40, drawing__=1)
    assert find_hold_out_units(table, "source", 20) == (["a", "b", "d"], {})


def test_a_source_of_two_classes_counts_whole() -> None:
    table = frame(real__a=12, drawing__a=12, real__b=5, drawing__b=30)
    assert find_hold_out_units(table, "source", 20) == (["a", "b"], {})


@pytest.mark.parametrize(
    ("table", "told"), [(frame(real__a=3), "a (all of class real)"), (frame(real__=9), "no image")]
)
def test_none_left_is_an_error_that_says_why(table: pd.DataFrame, told: str) -> None:
    with pytest.raises(DataError) as caught:
        find_hold_out_units(table, "source", 4)
    assert told in caught.value.lines[0]
    assert "data.split.at_least" in caught.value.lines[1]
