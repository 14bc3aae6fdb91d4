"""Tables of the report, and the text of their cells: numbers, metrics, and saved tables of blocks laid out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import pandas as pd

from avatar_bench.files.table_io import format_csv
from avatar_bench.i18n import _, ngettext
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.metrics.units import SOURCE, THESE_SOURCES
from avatar_bench.results.declaration import find_heading, find_word
from avatar_bench.results.display import count_digits, format_number, format_value
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric

Cell = dict[str, Any]
Column = dict[str, Any]
RunStyles = Mapping[str, Mapping[str, str]]  # colour and marker of each model
_MAX_INLINE_ROWS = 100  # rows of a table embedded as CSV
_MODEL_COLUMNS = ("run", "recipe", "model", "label", "a", "b")  # columns with names of models


@dataclass
class TableRow:
    """Row of a table: cells, label of its model or labels of its models, and whether it is highlighted."""

    cells: list[Any]
    model: str | list[str] | None = None
    best: bool = False


@dataclass
class Table:
    """Table of the report: `href` is the link to its CSV, `notes` how to read it, `compact` means low rows.

    `main`: it is open where other tables of its block are folded.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[TableRow] = field(default_factory=list)
    notes: str | None = None
    href: str | None = None
    compact: bool = False
    main: bool = False

    @property
    def csv(self) -> str | None:
        """Return the link to its CSV: a saved file, or a data URL for a short table made by the report."""
        if self.href or not 0 < len(self.rows) <= _MAX_INLINE_ROWS:
            return self.href
        return "data:text/csv;charset=utf-8," + quote(format_csv(self.frame()))

    @property
    def texts(self) -> list[list[str]]:
        """Return the rows as plain text, for Markdown."""
        return [[format_cell(cell) for cell in row.cells] for row in self.rows]

    def frame(self) -> pd.DataFrame:
        """Return the table for CSV: numbers in full, intervals in separate columns."""
        parts: dict[str, list[Any]] = {}
        for index, column in enumerate(self.columns):
            cells = [row.cells[index] for row in self.rows]
            name = str(column.get("key", column["text"]))
            name = f"{name} {len(parts)}" if name in parts else name
            parts[name] = [_find_full_value(cell) for cell in cells]
            for end in ("low", "high"):
                if find_ends(cells):
                    parts[f"{name} {end}"] = [cell.get(end) if isinstance(cell, dict) else None for cell in cells]
        return pd.DataFrame(parts)


def _find_full_value(cell: Any) -> Any:
    """Return the full value of a cell, such as a whole hash of which a few digits are shown."""
    if not isinstance(cell, dict):
        return cell
    return next((cell[key] for key in ("full", "value") if cell.get(key) is not None), format_cell(cell))


def make_column(text: str, number: bool = False, better: str | None = None, **more: Any) -> Column:
    """Return a column; `better` is "higher" or "lower" where one direction is better."""
    return {"text": text, "number": number} | ({"better": better} if better else {}) | more


def make_columns(*texts: str, numbers: Collection[str] = ()) -> list[Column]:
    """Return columns with these headings, of which some head `numbers`."""
    return [make_column(text, text in numbers) for text in texts]


def make_metric_column(name: str, block: str, metrics: Iterable[Metric | None]) -> Column:
    """Return the column of a metric of a block, whose better direction is that of the first one found."""
    known = next(metric for metric in metrics if metric is not None)
    better = {True: "higher", False: "lower", None: None}[known.higher_is_better]
    return make_column(find_heading(name, block), True, better, key=name)


def fit_scale(columns: Sequence[Column], rows: Iterable[TableRow]) -> None:
    """Enable the drawing of intervals for columns whose values all lie between 0 and 1."""
    for column, *cells in zip(columns, *(row.cells for row in rows), strict=True):
        ends = find_ends(cells)
        column["bars"] = bool(ends) and min(ends) >= 0 and max(ends) <= 1


def find_ends(cells: Iterable[Any]) -> list[float]:
    """Return the ends of all intervals in cells."""
    return [cell[key] for cell in cells if isinstance(cell, dict) for key in ("low", "high") if key in cell]


def format_temperature(value: float, fit: TemperatureFit | None) -> str:
    """Format the temperature of a run, and the fitted one with its interval where it is not applied."""
    if fit is None or fit.is_applied:
        return format_number(value)
    fitted = format_value(fit.fitted, fit.low, fit.high)
    return _("{value} (not applied: {fitted})", value=format_number(value), fitted=fitted)


def format_metric(metric: Metric, block: str) -> str:
    """Format a metric of a block with its interval, or the reason why it has no value."""
    if metric.value is None:
        return _("none: {why}", why=format_reason(metric.reason, block) if metric.reason else "")
    return format_value(metric.value, metric.low, metric.high)


def format_metric_with_units(metric: Metric, block: str) -> str:
    """Format a metric with its interval and, in parentheses, its population, its units and that for these sources."""
    shown, stated, beside = format_metric(metric, block), metric.inference, metric.these_sources
    is_expected = metric.population == THESE_SOURCES and (metric.reason is None or metric.low is None)
    if metric.value is None or metric.population is None or is_expected:
        return shown
    units = _("for {population}", population=find_word(metric.population))
    if stated["unit"] == SOURCE:
        units += ", " + ngettext("{n} source", "{n} sources", n=stated["units"])
    if beside is not None:
        seen = format_value(float(beside.get("value", metric.value)), beside.get("low"), beside.get("high"))
        units += "; " + _("for these sources {value}", value=seen)
    return f"{shown} ({units})"


def format_names(names: Sequence[str]) -> str:
    """Format names as a list in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return _("{most} and {last}", most=", ".join(names[:-1]), last=names[-1])


def make_interval_cell(value: float, low: float | None = None, high: float | None = None) -> Cell:
    """Return a value as a cell with the ends of its interval, if any; integers without decimals."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return {"value": value, "text": format_number(value)}
    places = count_digits(value, low, high)
    text = format_number(value, places)
    return {"value": value, "text": text, "low": float(low), "high": float(high), "digits": places}


def drop_repeated(keys: Collection[str], metric_sets: Iterable[Mapping[str, Metric | None]]) -> list[str]:
    """Return the metrics without those before a temperature that equal those after it in all sets."""
    values = [{key: metric.value for key, metric in metrics.items() if metric} for metrics in metric_sets]
    pairs = {key: [(part.get(key), part.get(f"scaled/{key}")) for part in values] for key in keys}
    return [key for key in keys if f"scaled/{key}" not in keys or any(raw != scaled for raw, scaled in pairs[key])]


def make_metric_cell(metric: Metric | None, block: str) -> Cell | None:
    """Return a metric of a block as a cell that sorts by its value, with its interval; None without a metric."""
    if metric is None:
        return None
    if metric.value is None:
        return {"value": None, "text": None, "reason": format_reason(metric.reason, block) if metric.reason else ""}
    floor = {} if metric.floor is None else {"floor": metric.floor}
    return make_interval_cell(metric.value, metric.low, metric.high) | floor


def make_value_cell(value: Any, whole: bool = True) -> Any:
    """Return a value of a saved table as a cell: a rounded number, None for a missing value.

    An integer has no decimals only in a column of integers (`whole`), so that 1.000 aligns with 0.687.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return {"text": _("yes") if value else _("no"), "value": int(value)}
    if isinstance(value, float):
        return {"text": f"{value:.0f}" if whole and value.is_integer() else format_number(value), "value": value}
    return value if isinstance(value, int) else str(value)


def format_cell(cell: Any) -> str:
    """Format a cell as plain text, for Markdown and CSV."""
    if cell is None:
        return "–"
    if not isinstance(cell, dict):
        return str(cell)
    if cell.get("reason") and cell.get("value") is None:
        return _("none: {why}", why=cell["reason"])
    if "first" in cell:
        ranks = "–".join(map(str, sorted({cell["first"], cell["last"]})))
        return f"{ranks} {cell.get('letters', '')}".rstrip()
    text = str(cell.get("text") if cell.get("text") is not None else cell.get("value", ""))
    if cell.get("soft"):
        return f"{text} ({cell['soft']})"
    if "low" not in cell:
        return text
    low, high = (format_number(cell[end], cell.get("digits")) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def lay_out(
    table: pd.DataFrame, block: str, name: str, caption: str, styles: RunStyles, only: Sequence[str] = ()
) -> Table:
    """Return a saved table of a block with intervals beside values and models in their colours.

    `x`, `x_low` and `x_high` become one column, as do any column directly followed by `low` and `high`; where x is
    empty, `x_reason` replaces it. `params_m_x` is shown below the name x. `only` limits the columns to those listed.
    Columns without any value or reason are left out.
    """
    table = table.rename(columns=str)
    ends = _find_interval_columns(list(table.columns))
    merged = {end for pair in ends.values() for end in pair} | {f"{head}_reason" for head in table}
    merged |= {f"params_m_{name}" for name in _MODEL_COLUMNS if name in table}
    heads = [head for head in table.columns if head not in merged and (not only or head in only)]
    heads = [head for head in heads if table.filter([head, f"{head}_reason"]).notna().any(axis=None)]
    whole = {head for head in heads if table[head].dtype.kind != "f" or not (table[head].dropna() % 1).any()}

    def make_cell(record: Mapping[Any, Any], head: str) -> Any:
        value = record[head]
        cell = make_value_cell(value, head in whole)
        if head in ends and isinstance(value, int | float):
            low, high = (record[end] for end in ends[head])
            if cell is not None and not (pd.isna(low) or pd.isna(high)):
                cell = make_interval_cell(value, float(low), float(high))
        elif head in _MODEL_COLUMNS and isinstance(cell, str) and cell in styles:
            cell = {"text": cell, **styles[cell]}
        elif isinstance(cell, str):
            cell = _make_text_cell(cell, head, block)
        if not pd.isna(size := record.get(f"params_m_{head}", math.nan)):
            size_text = _("{number} M parameters", number=format_number(size))
            cell = (cell if isinstance(cell, dict) else {"text": cell}) | {"soft": size_text}
        if cell is None and (reason := Reason.parse_cell(record.get(f"{head}_reason"))) is not None:
            cell = {"text": None, "value": None, "reason": format_reason(reason, block)}
        return cell

    rows = []
    for record in table.astype(object).to_dict("records"):
        first = record.get(heads[0]) if heads and heads[0] in _MODEL_COLUMNS[:4] else None
        rows.append(TableRow([make_cell(record, head) for head in heads], str(first) if first in styles else None))
    columns = [
        make_column(find_heading(head, block), table[head].dtype.kind in "if", bars=False, key=head) for head in heads
    ]
    return Table(name, caption, columns, rows)


def transpose(table: Table) -> Table:
    """Return a table of few models and many columns transposed, one column per model."""
    lead, *others = zip(*(row.cells for row in table.rows), strict=True)
    models = [str(cell["text"] if isinstance(cell, dict) else cell) for cell in lead]
    columns = [table.columns[0], *(make_column(model, True, bars=False) for model in models)]
    rows = [TableRow([column["text"], *cells]) for column, cells in zip(table.columns[1:], others, strict=True)]
    return replace(table, columns=columns, rows=rows)


def _find_interval_columns(heads: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the columns with the ends of the interval of each column."""
    ends = {head: (f"{head}_low", f"{head}_high") for head in heads if {f"{head}_low", f"{head}_high"} <= set(heads)}
    for index in range(len(heads) - 2):
        if heads[index + 1 : index + 3] == ["low", "high"]:
            ends[heads[index]] = ("low", "high")
    return ends


def _make_text_cell(text: str, head: str, block: str) -> Any:
    """Return a reason as its sentence, and a text that has a readable form as that form."""
    reason = Reason.parse_cell(text)
    if reason is not None:
        return format_reason(reason, block)
    shown = find_heading(text, block) if head == "metric" else find_word(text, block)
    return text if shown == text else {"text": shown, "full": text}
