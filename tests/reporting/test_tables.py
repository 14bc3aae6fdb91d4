"""How numbers are written, as text and as cells."""

from __future__ import annotations

import io
import math
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.metrics.rounding import format_number, format_value
from avatar_bench.reporting.tables import (
    Table,
    TableRow,
    format_cell,
    lay_out,
    make_column,
    make_metric_cell,
    make_value_cell,
)
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((0.00006, 0.0, 0.12), "0.000 [0.000, 0.120]"),
        ((0.987, 0.953, 1.0), "0.987 [0.953, 1.000]"),
        ((1.0, 0.963, 1.0), "1.000 [0.963, 1.000]"),
        ((9.8, 8.1, 12.3), "9.80 [8.10, 12.30]"),
        ((0.99312, 0.99291, 0.99334), "0.9931 [0.9929, 0.9933]"),
        ((0.00006, 0.00001, 0.00009), "0.00006 [0.00001, 0.00009]"),
        ((-0.0001, -0.02, 0.02), "0.000 [−0.020, 0.020]"),
        ((1.0, 0.0, 1.0), "1.000 [0.000, 1.000]"),
        ((3.0, 1.0, 4.0), "3 [1, 4]"),
    ],
)
def test_a_value_and_its_interval_have_the_same_digits_and_the_width_shows(given: Any, text: str) -> None:
    assert format_value(*given) == text
    low, high = text.split("[")[1].rstrip("]").split(", ")
    cell = make_metric_cell(Metric(given[0], 9, *given[1:]), "blind_test")
    assert cell is not None
    assert (cell["text"], format_number(cell["low"], cell["digits"]), format_number(cell["high"], cell["digits"])) == (
        *(text.split(" ")[0], low, high),
    )


def test_cells_of_metrics_are_sorted_by_value_and_say_why_there_is_none() -> None:
    assert make_metric_cell(None, "blind_test") is None
    assert make_metric_cell(Metric(0.5, 9), "blind_test") == {"value": 0.5, "text": "0.500"}
    whole = make_metric_cell(Metric(0.5, 9, 0.4, 0.6, floor=0.0), "blind_test")
    assert whole == {"value": 0.5, "text": "0.500", "low": 0.4, "high": 0.6, "digits": 3, "floor": 0.0}
    empty = make_metric_cell(Metric(None, 0, reason=Reason("why")), "blind_test")
    assert format_cell(empty) == "none: why"


def test_values_of_tables_keep_their_kind() -> None:
    table = pd.DataFrame({"a": ["x", None], "b": [1, 2], "c": [0.5, math.nan], "d": [True, False]})
    first, second = (row.cells for row in lay_out(table, "blind_test", "t", "t", {}).rows)
    assert first[:2] == ["x", 1]
    assert [format_cell(cell) for cell in first] == ["x", "1", "0.500", "yes"]
    assert [format_cell(cell) for cell in second] == ["–", "2", "–", "no"]
    assert make_value_cell(3.0) == {"text": "3", "value": 3.0}
    empty = lay_out(table.assign(e=math.nan), "blind_test", "t", "t", {})
    assert [column["key"] for column in empty.columns] == ["a", "b", "c", "d"]  # e would be a row of dashes


def test_a_table_of_the_reports_own_carries_its_csv_and_a_saved_one_links_to_it() -> None:
    table = Table(
        "t",
        "t",
        [make_column("name"), make_column("v", True)],
        [TableRow(["Ёж, <b>", {"value": 1 / 3, "text": "0.333"}])],
    )
    head, _, body = str(table.csv).partition(",")
    assert head == "data:text/csv;charset=utf-8"
    assert pd.read_csv(io.StringIO(unquote(body))).iloc[0].tolist() == ["Ёж, <b>", pytest.approx(1 / 3)]
    table.href = "a/t.csv"
    assert table.csv == "a/t.csv"
    assert Table("t", "t", table.columns, table.rows * 101).csv is None
    assert Table("t", "t", table.columns).csv is None


def test_intervals_of_saved_tables_stand_beside_their_values_and_models_bear_their_looks() -> None:
    table = pd.DataFrame(
        {"run": ["m", "n"], "score": [0.5, 0.1], "score_low": [0.4, math.nan], "score_high": [0.6, math.nan]}
        | {"rank": [1, 2], "rank_low": [1, 1], "rank_high": [2, 2], "difference": [0.2, 0.3]}
        | {"low": [0.1, 0.2], "high": [0.3, 0.4]}
    )
    look = {"color": "#123456", "marker": "o"}
    found = lay_out(table, "blind_test", "t", "t", {"m": look})
    assert [one["key"] for one in found.columns] == ["run", "score", "rank", "difference"]
    assert found.rows[0].cells[0] == {"text": "m"} | look
    assert [row.model for row in found.rows] == ["m", None]
    assert found.texts[0] == ["m", "0.500 [0.400, 0.600]", "1 [1, 2]", "0.200 [0.100, 0.300]"]
    assert found.texts[1][1] == "0.100"
    assert [one["key"] for one in lay_out(table, "blind_test", "t", "t", {}, ["run", "rank"]).columns] == [
        "run",
        "rank",
    ]
