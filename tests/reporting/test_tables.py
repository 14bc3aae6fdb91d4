"""How numbers are written, as text and as cells."""

from __future__ import annotations

import io
import math
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.reporting.tables import (
    Table,
    TableRow,
    fit_scale,
    format_cell,
    format_metric,
    format_names,
    lay_out,
    make_column,
    make_metric_cell,
    make_value_cell,
    transpose,
)
from avatar_bench.results.display import format_number, format_value
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6866, "0.687"),
        (0.0, "0.000"),
        (1.0, "1.000"),
        (4.229, "4.23"),
        (53.398, "53.4"),
        (1103.0003, "1103"),
        (-0.2, "−0.200"),
        (0.00004, "4e−05"),
        (-0.0, "0.000"),
    ],
)
def test_a_number_has_the_digits_that_say_something(value: float, text: str) -> None:
    assert format_number(value) == text


def test_an_interval_stands_behind_the_value() -> None:
    assert format_value(0.5, 0.4, 0.6) == "0.500 [0.400, 0.600]"
    assert format_value(0.5, 0.4, math.nan) == "0.500"


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


def test_a_metric_without_a_value_says_why() -> None:
    assert (
        format_metric(Metric(None, 0, reason=Reason("never_predicted")), "blind_test")
        == "none: the class is never predicted"
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


def test_whole_numbers_are_written_whole_in_a_column_of_whole_numbers_alone() -> None:
    table = pd.DataFrame({"mixed": [1.0, 0.687, math.nan], "whole": [1.0, 12.0, math.nan], "counts": [3, 4, 5]})
    assert lay_out(table, "blind_test", "t", "t", {}).texts == [
        ["1.000", "1", "3"],
        ["0.687", "12", "4"],
        ["–", "–", "5"],
    ]


def test_ranks_and_lists_are_written() -> None:
    assert format_cell({"first": 1, "last": 3, "letters": "ab"}) == "1–3 ab"
    assert format_cell({"first": 2, "last": 2, "letters": ""}) == "2"
    assert [format_names(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_a_table_gives_its_numbers_in_full_as_csv() -> None:
    rows = [
        TableRow(
            [
                "x",
                make_metric_cell(Metric(1 / 3, 9, 0.1, 0.6), "blind_test"),
                {"text": "abc", "full": "abcdef"},
                {"first": 1, "last": 2},
            ]
        )
    ]
    frame = Table(
        "t", "t", [make_column("m"), make_column("v", True), make_column("h"), make_column("m")], rows
    ).frame()
    assert list(frame) == ["m", "v", "v low", "v high", "h", "m 5"]
    assert frame.iloc[0].tolist() == ["x", 1 / 3, 0.1, 0.6, "abcdef", "1–2"]


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


def test_a_wide_table_of_few_models_is_turned() -> None:
    table = pd.DataFrame({"run": ["m", "n"], "x": [1, 2], "y": [0.5, math.nan]})
    found = transpose(lay_out(table, "blind_test", "t", "t", {"m": {"color": "#123456", "marker": "o"}}))
    assert [column["text"] for column in found.columns] == ["run", "m", "n"]
    assert found.texts == [["x", "1", "2"], ["y", "0.500", "–"]]


def test_intervals_are_drawn_where_the_scale_fits() -> None:
    columns = [make_column("a", True), make_column("b", True), make_column("c", True)]
    rows = [TableRow([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 5.0, "low": 4.0, "high": 6.0}, None])]
    fit_scale(columns, rows)
    assert [column["bars"] for column in columns] == [True, False, False]


def test_intervals_of_saved_tables_stand_beside_their_values_and_models_bear_their_looks() -> None:
    table = pd.DataFrame(
        {"run": ["m", "n"], "score": [0.5, 0.1], "score_low": [0.4, math.nan], "score_high": [0.6, math.nan]}
        | {"rank": [1, 2], "rank_low": [1, 1], "rank_high": [2, 2], "difference": [0.2, 0.3]}
        | {"low": [0.1, 0.2], "high": [0.3, 0.4]}
    )
    look = {"color": "#123456", "marker": "o"}
    found = lay_out(table, "blind_test", "t", "t", {"m": look})
    assert [column["key"] for column in found.columns] == ["run", "score", "rank", "difference"]
    assert found.rows[0].cells[0] == {"text": "m"} | look
    assert [row.model for row in found.rows] == ["m", None]
    assert found.texts[0] == ["m", "0.500 [0.400, 0.600]", "1 [1, 2]", "0.200 [0.100, 0.300]"]
    assert found.texts[1][1] == "0.100"
    assert [column["key"] for column in lay_out(table, "blind_test", "t", "t", {}, ["run", "rank"]).columns] == [
        "run",
        "rank",
    ]


def test_an_empty_cell_of_a_saved_table_bears_its_reason() -> None:
    table = pd.DataFrame(
        {"a": ["m", "n"], "least": [0.1, math.nan], "least_reason": [math.nan, str(Reason("never_predicted"))]}
    )
    for only in ([], ["a", "least"]):
        found = lay_out(table, "blind_test", "t", "t", {}, only)
        assert [column["key"] for column in found.columns] == ["a", "least"]
        assert found.texts == [["m", "0.100"], ["n", "none: the class is never predicted"]]
    none = lay_out(table.iloc[1:], "blind_test", "t", "t", {}, ["a", "least"])
    assert none.texts == [["n", "none: the class is never predicted"]]  # not left out as if nobody had asked


def test_the_size_of_a_network_stands_below_its_name() -> None:
    look = {"color": "#123456", "marker": "o"}
    table = pd.DataFrame({"a": ["m", "n"], "b": ["n", "o"], "p": [0.2, 0.3]})
    sizes = {"params_m_a": [27.82, 5.5], "macs_g_a": [4.5, 1.1], "params_m_b": [5.5, math.nan]}
    found = lay_out(table.assign(**sizes), "blind_test", "t", "t", {"m": look}, ["a", "b", "p"])
    assert [column["key"] for column in found.columns] == ["a", "b", "p"]
    assert found.rows[0].cells[0] == {"text": "m", "soft": "27.8 M parameters"} | look
    assert found.texts == [
        ["m (27.8 M parameters)", "n (5.50 M parameters)", "0.200"],
        ["n (5.50 M parameters)", "o", "0.300"],
    ]
