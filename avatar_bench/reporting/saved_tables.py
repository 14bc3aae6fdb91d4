"""CSV tables of blocks, laid out for reading."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from avatar_bench.i18n import _
from avatar_bench.metrics.rounding import format_number
from avatar_bench.reporting.number_format import make_interval_cell, make_value_cell
from avatar_bench.reporting.tables import Table, TableRow, make_column
from avatar_bench.results.headings import find_heading, find_word
from avatar_bench.results.reasons import Reason, format_reason

RunStyles = Mapping[str, Mapping[str, str]]  # colour and marker of each model
_MODEL_COLUMNS = ("run", "recipe", "model", "label", "a", "b")  # columns with names of models


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
    rows = [_build_row(record, block, heads, ends, styles, whole) for record in table.astype(object).to_dict("records")]
    numeric = {head: table[head].dtype.kind in "if" for head in heads}
    columns = [make_column(find_heading(head, block), numeric[head], bars=False, key=head) for head in heads]
    return Table(name, caption, columns, rows)


def transpose(table: Table) -> Table:
    """Return a table of few models and many columns transposed, one column per model."""
    heads = [
        make_column(str(row.cells[0]["text"] if isinstance(row.cells[0], dict) else row.cells[0]), True)
        for row in table.rows
    ]
    columns = [table.columns[0], *(head | {"bars": False} for head in heads)]
    rows = [
        TableRow([one["text"], *(row.cells[place] for row in table.rows)])
        for place, one in enumerate(table.columns[1:], start=1)
    ]
    return Table(table.name, table.caption, columns, rows, table.notes, table.href)


def _find_interval_columns(heads: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the columns with the ends of the interval of each column."""
    found = {head: (f"{head}_low", f"{head}_high") for head in heads if {f"{head}_low", f"{head}_high"} <= set(heads)}
    for place in range(len(heads) - 2):
        if heads[place + 1 : place + 3] == ["low", "high"]:
            found[heads[place]] = ("low", "high")
    return found


def _build_row(
    record: Mapping[Any, Any],
    block: str,
    heads: Sequence[str],
    ends: Mapping[str, tuple[str, str]],
    styles: RunStyles,
    whole: Collection[str],
) -> TableRow:
    cells = []
    for head in heads:
        cell = make_value_cell(record[head], head in whole)
        if head in ends and isinstance(record[head], int | float):
            low, high = (record[end] for end in ends[head])
            if cell is not None and not (pd.isna(low) or pd.isna(high)):
                cell = make_interval_cell(record[head], float(low), float(high))
        elif head in _MODEL_COLUMNS and isinstance(cell, str) and cell in styles:
            cell = {"text": cell, **styles[cell]}
        elif isinstance(cell, str):
            cell = _make_text_cell(cell, head, block)
        if not pd.isna(size := record.get(f"params_m_{head}", math.nan)):
            size_text = _("{number} M parameters", number=format_number(size))
            cell = (cell if isinstance(cell, dict) else {"text": cell}) | {"soft": size_text}
        why = record.get(f"{head}_reason")
        if cell is None and (reason := Reason.parse_cell(why)) is not None:
            cell = {"text": None, "value": None, "reason": format_reason(reason, block)}
        cells.append(cell)
    first = record.get(heads[0]) if heads and heads[0] in _MODEL_COLUMNS[:4] else None
    return TableRow(cells, str(first) if first in styles else None)


def _make_text_cell(text: str, head: str, block: str) -> Any:
    """Return a reason as its sentence, and a text that has a readable form as that form."""
    reason = Reason.parse_cell(text)
    if reason is not None:
        return format_reason(reason, block)
    shown = find_heading(text, block) if head == "metric" else find_word(text, block)
    return text if shown == text else {"text": shown, "full": text}
