"""How numbers are written, as text and as cells."""

import io
import math
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.reporting import tables
from avatar_bench.results.display import format_number, format_value
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

LOOK = {"color": "#123456", "marker": "o"}
NONE = "none: the class is never predicted"


def lay(table, *columns):
    return tables.lay_out(table, "blind_test", "t", "t", {"m": LOOK}, list(columns))


def list_keys(table):
    return [column["key"] for column in table.columns]


def test_a_number_has_the_digits_that_matter():
    texts = {0.6866: "0.687", 0.0: "0.000", 1.0: "1.000", 4.229: "4.23", 53.398: "53.4", 1103.0003: "1103"}
    texts |= {-0.2: "−0.200", 0.00004: "4e−05"}
    assert {value: format_number(value) for value in texts} == texts
    assert format_number(-0.0) == "0.000"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.00006, 0.0, 0.12), "0.000 [0.000, 0.120]"),
        ((0.5, 0.4, 0.6), "0.500 [0.400, 0.600]"),
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
def test_a_value_and_its_interval_have_the_same_digits_and_the_width_shows(values, text):
    assert format_value(*values) == text
    assert format_value(0.5, 0.4, math.nan) == "0.500"
    low, high = text.split("[")[1].rstrip("]").split(", ")
    cell = tables.make_metric_cell(Metric(values[0], 9, *values[1:]), "blind_test")
    ends = [format_number(cell[end], cell["digits"]) for end in ("low", "high")]
    assert [cell["text"], *ends] == [text.split(" ")[0], low, high]


def test_cells_of_metrics_and_values_keep_their_kind_and_give_the_reason_where_there_is_none():
    assert tables.make_metric_cell(None, "blind_test") is None
    assert tables.make_metric_cell(Metric(0.5, 9), "blind_test") == {"value": 0.5, "text": "0.500"}
    whole = tables.make_metric_cell(Metric(0.5, 9, 0.4, 0.6, floor=0.0), "blind_test")
    assert whole == {"value": 0.5, "text": "0.500", "low": 0.4, "high": 0.6, "digits": 3, "floor": 0.0}
    empty = Metric(None, 0, reason=Reason("never_predicted"))
    assert tables.format_metric(empty, "blind_test") == NONE
    assert tables.format_cell(tables.make_metric_cell(empty, "blind_test")) == NONE
    assert tables.format_cell({"first": 1, "last": 3, "letters": "ab"}) == "1–3 ab"
    assert tables.format_cell({"first": 2, "last": 2, "letters": ""}) == "2"
    assert [tables.format_names(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    columns = [tables.make_column(name, True) for name in "abc"]
    rows = [tables.TableRow([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 5.0, "low": 4.0, "high": 6.0}, None])]
    tables.fit_scale(columns, rows)
    assert [column["bars"] for column in columns] == [True, False, False]  # drawn where the scale fits
    table = pd.DataFrame({"a": ["x", None], "b": [1, 2], "c": [0.5, math.nan], "d": [True, False]})
    first, second = (row.cells for row in lay(table).rows)
    assert first[:2] == ["x", 1]
    assert [tables.format_cell(cell) for cell in first] == ["x", "1", "0.500", "yes"]
    assert [tables.format_cell(cell) for cell in second] == ["–", "2", "–", "no"]
    assert tables.make_value_cell(3.0) == {"text": "3", "value": 3.0}
    assert list_keys(lay(table.assign(e=math.nan))) == ["a", "b", "c", "d"]  # e would be a row of dashes
    table = pd.DataFrame({"mixed": [1.0, 0.687, math.nan], "whole": [1.0, 12.0, math.nan], "counts": [3, 4, 5]})
    # whole numbers alone are written without digits
    assert lay(table).texts == [["1.000", "1", "3"], ["0.687", "12", "4"], ["–", "–", "5"]]
    turned = tables.transpose(lay(pd.DataFrame({"run": ["m", "n"], "x": [1, 2], "y": [0.5, math.nan]})))
    assert [column["text"] for column in turned.columns] == ["run", "m", "n"]
    assert turned.texts == [["x", "1", "2"], ["y", "0.500", "–"]]


def test_a_table_has_its_numbers_in_full_as_csv():
    metric = tables.make_metric_cell(Metric(1 / 3, 9, 0.1, 0.6), "blind_test")
    row = tables.TableRow(["Ёж, <b>", metric, {"text": "abc", "full": "abcdef"}, {"first": 1, "last": 2}])
    columns = [tables.make_column("m"), tables.make_column("v", True), tables.make_column("h"), tables.make_column("m")]
    table = tables.Table("t", "t", columns, [row])
    expected = {"m": "Ёж, <b>", "v": 1 / 3, "v low": 0.1, "v high": 0.6, "h": "abcdef", "m 5": "1–2"}
    assert table.frame().iloc[0].to_dict() == expected
    head, _, body = str(table.csv).partition(",")
    assert head == "data:text/csv;charset=utf-8"
    assert pd.read_csv(io.StringIO(unquote(body))).iloc[0].to_dict() == pytest.approx(expected)
    table.href = "a/t.csv"
    assert table.csv == "a/t.csv"
    assert tables.Table("t", "t", columns, table.rows * 101).csv is None
    assert tables.Table("t", "t", columns).csv is None


def test_intervals_of_saved_tables_stand_beside_their_values_and_models_bear_their_looks():
    table = pd.DataFrame(
        {"run": ["m", "n"], "score": [0.5, 0.1], "score_low": [0.4, math.nan], "score_high": [0.6, math.nan]}
        | {"rank": [1, 2], "rank_low": [1, 1], "rank_high": [2, 2], "difference": [0.2, 0.3]}
        | {"low": [0.1, 0.2], "high": [0.3, 0.4]}
    )
    shown = lay(table)
    assert list_keys(shown) == ["run", "score", "rank", "difference"]
    assert shown.rows[0].cells[0] == {"text": "m"} | LOOK
    assert [row.model for row in shown.rows] == ["m", None]
    assert shown.texts[0] == ["m", "0.500 [0.400, 0.600]", "1 [1, 2]", "0.200 [0.100, 0.300]"]
    assert shown.texts[1][1] == "0.100"
    assert list_keys(lay(table, "run", "rank")) == ["run", "rank"]


def test_empty_cells_of_saved_tables_bear_their_reason_and_sizes_stand_below_names():
    reasons = [math.nan, str(Reason("never_predicted"))]
    table = pd.DataFrame({"a": ["x", "y"], "least": [0.1, math.nan], "least_reason": reasons})
    for columns in ([], ["a", "least"]):
        shown = lay(table, *columns)
        assert list_keys(shown) == ["a", "least"]
        assert shown.texts == [["x", "0.100"], ["y", NONE]]
    assert lay(table.iloc[1:], "a", "least").texts == [["y", NONE]]  # not left out as if nobody had asked
    table = pd.DataFrame({"a": ["m", "n"], "b": ["n", "o"], "p": [0.2, 0.3]})
    sizes = {"params_m_a": [27.82, 5.5], "macs_g_a": [4.5, 1.1], "params_m_b": [5.5, math.nan]}
    shown = lay(table.assign(**sizes), "a", "b", "p")
    assert list_keys(shown) == ["a", "b", "p"]
    assert shown.rows[0].cells[0] == {"text": "m", "soft": "27.8 M parameters"} | LOOK
    small = "n (5.50 M parameters)"
    assert shown.texts == [["m (27.8 M parameters)", small, "0.200"], [small, "o", "0.300"]]


def test_a_column_before_the_temperature_is_left_out_where_it_repeats_that_after_it():
    def make(raw, scaled):
        return {"ece": raw and Metric(raw, 9), "scaled/ece": Metric(scaled, 9), "nll": Metric(raw, 9)}

    keys = ["scaled/ece", "ece", "nll"]
    assert tables.drop_repeated(keys, [make(0.1, 0.1), make(0.2, 0.2)]) == ["scaled/ece", "nll"]
    assert tables.drop_repeated(keys, [make(0.1, 0.1), make(0.2, 0.3)]) == keys
