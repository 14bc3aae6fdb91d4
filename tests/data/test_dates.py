"""Dates known in part: what they may mean, their side of a cut, and their periods."""

from datetime import date

import pandas as pd
import pytest

from avatar_bench.data.dates import find_days, locate_end, locate_period, name_period, place_by_date


def test_dates_known_in_part_mean_several_days_and_other_texts_none():
    assert find_days("2024") == (date(2024, 1, 1), date(2024, 12, 31))
    assert find_days("2024-02") == (date(2024, 2, 1), date(2024, 2, 29))
    assert find_days("1900-02") == (date(1900, 2, 1), date(1900, 2, 28))
    assert find_days("2023-12-31") == (date(2023, 12, 31), date(2023, 12, 31))
    others = ["", "24", "0000", "2024-13", "2024-6", "2023-02-29", "2024-06-1", "2024-W01-1", "202406", "２０２４"]
    assert [text for text in [*others, "2024\n"] if find_days(text)] == []


def test_a_date_is_on_a_side_of_a_cut_only_if_all_its_days_are():
    known = [(date, "", "before") for date in ("2024-06-30", "2024-06", "2023")]
    known += [("2024", "", ""), ("2024-07-01", "", "after")]  # of 2024, June is a part
    known += [("2025", "2020", "after"), ("2020", "2025", "before"), ("", "", "")]  # its own date counts
    known += [("", "2024-06", ""), ("", "2024", ""), ("", "2024-07", "after")]  # made then or later
    dates, released, expected = (pd.Series(column) for column in zip(*known, strict=True))
    assert place_by_date(dates, released, "2024-06").tolist() == expected.tolist()
    assert place_by_date(dates[:4], released[:4], "2024").tolist() == ["before"] * 4


def test_a_date_is_in_a_period_unless_it_is_coarser_and_has_its_place_on_an_axis_of_years():
    for text, *periods in (
        ("2024", "2024", "", "", ""),
        ("2024-06", "2024", "2024-H1", "2024-Q2", "2024-06"),
        ("2024-07-01", "2024", "2024-H2", "2024-Q3", "2024-07"),
        ("0987-12-31", "0987", "0987-H2", "0987-Q4", "0987-12"),
        ("", "", "", "", ""),
    ):
        assert [name_period(text, length) for length in ("year", "half", "quarter", "month")] == periods
    places = [locate_period(name) for name in ("2024", "2024-H2", "2024-Q2")]
    assert places == [(2024, 2025), (2024.5, 2025), (2024.25, 2024.5)]
    assert locate_period("2024-12") == pytest.approx((2024 + 11 / 12, 2025))
    assert [locate_end(text) for text in ("2024", "2024-06", "2024-12-31")] == [2025, 2024.5, 2025]
    assert locate_end("2023-01-15") == pytest.approx(2023 + 15 / 31 / 12)
